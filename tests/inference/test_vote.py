"""Votes and pooled rankings by hand; paths against the answers that they are made of."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
import torch
from asking import drawn
from test_inferences import ICL, SCORE, TEXT
from tiny_answers import task, texts

from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.formulations.prompts import Writer, prompt_set
from peftbench.inference.vote.pooling import Pooled, rank, vote
from peftbench.tasks.base import Row

LABELS = ("health", "politics", "sports")


def test_most_paths_decide_and_invalid_ones_have_no_vote() -> None:
    assert vote(["sports", None, "health", "sports", None], LABELS) == Pooled("sports", 0.4, False)
    assert vote([None, None], LABELS) == Pooled(None, 0.0, False)


def test_a_tie_is_seen_and_broken_by_shares_then_by_the_order_of_the_labels() -> None:
    assert vote(["sports", "health"], LABELS) == Pooled("health", 0.5, True)
    shares = [{"sports": 0.9, "health": 0.1}, {"sports": 0.4, "health": 0.6}]
    assert vote(["sports", "health"], LABELS, shares) == Pooled("sports", 0.5, True)


def test_rankings_are_pooled_by_one_over_the_rank() -> None:
    """dog 1 + 1/2 + 1, cat 1/2 + 1, a fish 1/3."""
    found = rank([("Dog", "cat", "a fish"), ("cat", "dog"), None, ("dog",)])
    assert found == Pooled(("dog", "cat", "a fish"), 0.5, False)
    assert rank([None]) == Pooled(None, 0.0, False)
    assert rank([("b",), ("a",)]) == Pooled(("a", "b"), 0.5, True)


def test_answers_that_mean_the_same_are_one_under_the_name_of_the_likelier() -> None:
    """hound 1/2 goes to dog 1: 1.5 against cat 1 + 1/3."""

    def same(one: str, other: str) -> bool:
        return {one, other} == {"dog", "hound"}

    paths = [("dog", "hound", "cat"), ("cat",)]
    assert rank(paths).answer == ("cat", "dog", "hound")
    assert rank(paths, same) == Pooled(("dog", "cat"), 0.5, False)


def test_pooling_does_not_look_at_the_order_of_paths() -> None:
    paths = [("dog", "cat"), ("cat", "dog"), ("hound",), None]
    assert len({rank(list(order)) for order in itertools.permutations(paths)}) == 1
    labels = ["sports", "health", None, "sports", "health"]
    assert len({vote(list(order), LABELS) for order in itertools.permutations(labels)}) == 1


def test_without_evidence_it_is_self_consistency() -> None:
    """The majority of the formulation's own samples."""
    own = drawn("vote", {"samples": 5, "temperature": 3.0, "seed": 7}, *TEXT, "method.formulation.constrain=labels")
    formulation = own.net.formulation.varied(own.net.backbone, sample=True, temperature=3.0, sample_seed=7)
    assert isinstance(formulation, GenerateFormulation)
    net = own.net.with_formulation(formulation).eval()
    batch = net.collate(net.encode(texts()))
    with torch.no_grad():
        paths = [[p.label for p in formulation.path(net.model, batch, number)] for number in range(5)]
    seen = set()
    for found, labels in zip(own.answer(texts()), zip(*paths, strict=True), strict=True):
        votes = Counter(labels)
        assert votes[found.label] == max(votes.values())
        assert [text.strip() for text in json.loads(str(found.answer))] == list(labels)
        seen |= set(labels)
    assert len(seen) > 1
    assert own.inference.facts(own.inference.sums)["paths"] == 5


def test_evidence_is_written_first_and_stands_in_front_of_the_row() -> None:
    own = drawn("vote", {"samples": 2, "evidence": "knowledge", "evidence_tokens": 5}, *SCORE)
    first, second = (own.inference.evident(texts(), own.ask, number) for number in range(2))
    for row, one, other in zip(texts(), first, second, strict=True):
        assert (one.id, one.text.endswith(f"\n{row.text}")) == (row.id, True)
        assert one.text != other.text, "each sample has evidence of its own"
    plain = [own.ask(rows) for rows in (first, second)]
    for number, found in enumerate(own.answer(texts())):
        labels = [paths[number].label for paths in plain]
        assert found.label in labels
        assert [answer for _, answer in json.loads(str(found.answer))] == labels
    assert own.inference.facts(own.inference.sums)["no_evidence"] == 0


def test_each_prompt_of_a_vote_has_a_prior_of_its_own() -> None:
    own = drawn("vote", {"samples": 1, "prompts": [0, 1]}, *ICL, "method.formulation.calibration=contextual",
                "method.stages=[calibration,none]")  # fmt: skip
    own.answer(texts())
    priors = [own.inference._variants[number].formulation.log_prior for number in (0, 1)]
    for prior in priors:
        assert float(prior.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(*priors)


@pytest.mark.slow
def test_rankings_of_several_prompts_become_one() -> None:
    data = task((), problem="answers", main_metric="max_answer_1", metrics=("max_answer_1",), fields=("question",))
    rows = [row.__class__(row.id, row.text, ((3, ("a dog",)), (1, ("a cat",)))) for row in texts()]
    own = drawn("vote", {"samples": 2, "temperature": 2.0, "prompts": [0, 1]}, "model=tiny-llama",
                "method=zero_shot", data=data)  # fmt: skip
    for found in own.answer(rows):
        assert found.label is None or isinstance(found.label, tuple)
        assert len(json.loads(str(found.answer))) == 4


def test_protoqas_prompts_fit_its_rows() -> None:
    """Rows of train have a question and nothing besides."""
    data = task((), problem="answers", main_metric="max_answer_1", metrics=("max_answer_1",), fields=("question",))
    chosen = prompt_set("protoqa")
    for number in range(len(chosen.prompts)):
        writer = Writer(chosen, number, data)
        assert "a pet is" in writer.example(writer.fields_of(Row("train:0", "a pet is", ((1, ("a dog",)),))))
