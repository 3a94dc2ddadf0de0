"""Beam search against transformers' own, against prefixes that are read anew, and by what the attribute has to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from asking import drawn
from test_inferences import TEXT
from tiny_answers import texts
from torch import Tensor

from peftbench.formulations.scoring import network_of
from peftbench.inference.conditional_beam_search.search import Attribute

NAME = "conditional_beam_search"
LONG = (*TEXT, "method.formulation.answer_tokens=6")


def prompts(own) -> list[Tensor]:
    return [torch.tensor([item.data["prompt"]]) for item in own.net.encode(texts())]


@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_without_a_weight_it_is_the_usual_beam_search(beams: int) -> None:
    own = drawn(NAME, {"weight": 0.0, "beams": beams, "candidates": 1}, *LONG)
    for prompt in prompts(own):
        expected = own.net.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, num_beams=beams,
            do_sample=False, length_penalty=0.0, pad_token_id=0, eos_token_id=own.net.formulation.eos,
        )[0, prompt.shape[1] :].tolist()  # fmt: skip
        with torch.no_grad():
            found = own.inference.search(prompt[0], torch.ones_like(prompt[0]).bool())
        assert [*found.ids, own.net.formulation.eos][: len(expected)] == expected
        assert found.log_p == pytest.approx(log_p(own, prompt, found), abs=1e-4)


def log_p(own, prompt: Tensor, found) -> float:
    """Of an answer, from one pass over prompt and answer without a cache."""
    ids = [*found.ids, *([own.net.formulation.eos] if found.ended else [])]
    whole = torch.cat([prompt, torch.tensor([ids])], dim=1)
    with torch.no_grad():
        logs = own.net.model(input_ids=whole).logits[0].log_softmax(-1)
    return float(sum(logs[prompt.shape[1] - 1 + n, token] for n, token in enumerate(ids)))


def read_anew(own, prompt: Tensor, beams: int, candidates: int, weight: float, most: int) -> tuple[int, ...]:
    """The search with every prefix read from its beginning, without a cache."""
    model, end = network_of(own.net.model), own.net.formulation.eos

    def behind(ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        whole = torch.cat([prompt, torch.tensor([ids], dtype=torch.long)], dim=1)
        with torch.no_grad():
            out = model(input_ids=whole, output_hidden_states=True)
        return out.logits[0, -1].log_softmax(-1), out.hidden_states[-1][:, -1]

    running, done = [((), 0.0, 0.0)], []
    for _ in range(most):
        every = []
        for ids, total, _ in running:
            logs, _ = behind(ids)
            every += [(total + float(logs[token]), (*ids, token)) for token in range(len(logs))]
        every = sorted(every, key=lambda one: -one[0])[: max(candidates, 2 * beams)]
        scored = []
        for total, ids in every:
            if ids[-1] == end:
                scored.append((total if own.inference._has(ids[:-1]) else -math.inf, total, ids))
            else:
                scored.append((total + weight * float(own.inference.attribute(behind(ids)[1])), total, ids))
        scored.sort(key=lambda one: -one[0])
        done += [(score, ids) for score, _, ids in scored[:beams] if ids[-1] == end and score > -math.inf]
        done = sorted(done, key=lambda one: -one[0])[:beams]
        running = [(ids, total, score) for score, total, ids in scored if ids[-1] != end][:beams]
        if len(done) == beams and done[-1][0] >= running[0][2]:
            break
    return max([*done, *((score, ids) for ids, _, score in running)], key=lambda one: one[0])[1]


@pytest.mark.parametrize("attribute", ["complete", pytest.param("valid", marks=pytest.mark.slow)])
def test_with_a_weight_prefixes_are_scored_as_if_they_were_read_anew(attribute: str) -> None:
    own = drawn(NAME, {"weight": 3.0, "beams": 2, "candidates": 5, "attribute": attribute}, *LONG)
    random = np.random.RandomState(0)
    own.inference.attribute = Attribute(random.standard_normal((40, 64)), np.arange(40) % 2 == 0)
    differs = 0
    for prompt in prompts(own):
        with torch.no_grad():
            found = own.inference.search(prompt[0], torch.ones_like(prompt[0]).bool())
        ids = [*found.ids, *([own.net.formulation.eos] if found.ended else [])]
        assert tuple(ids) == read_anew(own, prompt, 2, 5, 3.0, 6)
        with torch.no_grad():
            own.inference.attribute, learned = None, own.inference.attribute
            differs += own.inference.search(prompt[0], torch.ones_like(prompt[0]).bool()).ids != found.ids
            own.inference.attribute = learned
    assert differs, "the attribute has a say"


@pytest.mark.parametrize("length", [1, 4])
def test_every_answer_has_the_length_that_is_asked_for(length: int) -> None:
    own = drawn(NAME, {"attribute": "length", "length": length, "beams": 2}, *TEXT)
    for prompt in prompts(own):
        with torch.no_grad():
            found = own.inference.search(prompt[0], torch.ones_like(prompt[0]).bool())
        assert (len(found.ids), found.ended) == (length, True)
        assert found.log_p == pytest.approx(log_p(own, prompt, found), abs=1e-4)


def test_the_attribute_is_learned_from_prefixes_of_samples() -> None:
    """Whether the end comes by itself: samples of a network that ends about every fourth token."""
    own = drawn(NAME, {"weight": 1.0, "samples": 6, "beams": 2}, *LONG)
    head = network_of(own.net.model).lm_head
    before, end = head.forward, own.net.formulation.eos

    def ends_sooner(hidden: Tensor) -> Tensor:
        logits = before(hidden)
        logits[..., end] = logits.logsumexp(-1) - 1.0
        return logits

    head.forward = ends_sooner
    own.answer(texts())
    facts = own.inference.facts(own.inference.sums)
    assert 0 < facts["with_attribute"] < facts["prefixes"]
    assert own.inference.attribute is not None
    assert own.inference.remarks() == []


def test_where_all_samples_are_alike_nothing_is_learned_and_the_record_says_so() -> None:
    own = drawn(NAME, {"weight": 1.0, "samples": 1, "beams": 2}, *TEXT)
    plain = drawn(NAME, {"weight": 0.0, "beams": 2}, *TEXT)
    assert [p.answer for p in own.answer(texts())] == [p.answer for p in plain.answer(texts())]
    assert "so nothing was learned" in own.inference.remarks()[0]
