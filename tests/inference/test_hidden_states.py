"""Hidden-state optimisation against plain torch: a cache, a 4-D mask, torch's Adam; the streaming form against states
that are kept one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from asking import drawn
from test_inferences import ICL, SCORE
from tiny_answers import ARCHITECTURES, texts
from torch import Tensor
from transformers import DynamicCache

from peftbench.formulations.scoring import network_of
from peftbench.inference.hidden_state_optimisation.states import States
from peftbench.inference.hidden_state_optimisation.streaming import stream

HSO = "hidden_state_optimisation"


def by_hand(network, prompt: Tensor, marked: Tensor, answer: list[int], steps: int, rate: float) -> float:
    """log p(answer | prompt) after Adam's steps on the cached keys and values of the prompt, (1, n)."""
    length = prompt.shape[1]
    cache = network(input_ids=prompt, use_cache=True).past_key_values
    leaves = [t.detach().clone().requires_grad_() for layer in cache.layers for t in (layer.keys, layer.values)]
    adam = torch.optim.Adam(leaves, lr=rate)

    def behind(ids: Tensor, sees: Tensor, positions: Tensor) -> Tensor:
        """Logits of ids that attend to the leaves as `sees` says, (places, n), and to nothing of this pass but it."""
        filled = DynamicCache()
        for number, (keys, values) in enumerate(zip(leaves[::2], leaves[1::2], strict=True)):
            filled.update(keys, values, number)
        return network(
            input_ids=ids, attention_mask=sees[None, None], position_ids=positions, past_key_values=filled
        ).logits

    causal = torch.ones(length, length, dtype=torch.bool).tril()
    hidden = torch.cat(
        [causal, torch.zeros(length, length, dtype=torch.bool)], dim=1
    )  # of this pass' own states nothing
    places = torch.arange(length)[None]
    for _ in range(steps):
        logits = behind(prompt, hidden, places)[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), prompt[:, 1:].flatten(), reduction="none")
        adam.zero_grad()
        (losses * marked[:, 1:].flatten()).sum().backward()
        adam.step()
    with torch.no_grad():
        first = behind(prompt, hidden, places)[:, -1:]
        written = torch.tensor([answer])
        own = torch.ones(len(answer), len(answer), dtype=torch.bool).tril()
        sees = torch.cat([torch.ones(len(answer), length, dtype=torch.bool), own], dim=1)
        later = behind(written, sees, length + torch.arange(len(answer))[None])
        logs = torch.cat([first, later[:, :-1]], dim=1).log_softmax(-1)
    return float(logs[0, range(len(answer)), answer].sum())


@pytest.mark.parametrize("loss_on", ["all", "demo_labels"])
def test_labels_are_scored_as_by_hand(loss_on: str) -> None:
    own = drawn(HSO, {"steps": 3, "rate": 0.05, "loss_on": loss_on}, *ICL)
    network, formulation = network_of(own.net.model), own.net.formulation
    assert network.config.num_key_value_heads < network.config.num_attention_heads, "queries are grouped"
    for row, item, found in zip(texts(), own.net.encode(texts()), own.answer(texts()), strict=True):
        text = item.data["prompt_text"]
        prompt = torch.tensor([item.data["prompt"]])
        marked = torch.ones_like(prompt)
        if loss_on == "demo_labels":
            spans = item.data["shown_answers"]
            assert {text[start:end] for start, end in spans} <= set(formulation.task.labels), row
            assert len(spans) == 2
            marked = torch.tensor([formulation.places(text, spans)]).int()
            assert formulation.tokenizer.decode(prompt[0][marked[0] == 1]).split() == [text[a:b] for a, b in spans]
        for label, answer in formulation.label_ids.items():
            expected = by_hand(network, prompt, marked, answer, 3, 0.05) / len(answer)
            assert found.scores[label] == pytest.approx(expected, abs=2e-4)


def test_a_small_step_lowers_the_loss_of_the_prompt() -> None:
    own = drawn(HSO, {"steps": 1, "rate": 1e-3}, *ICL)
    own.answer(texts())
    facts = own.inference.facts(own.inference.sums)
    assert facts["lower"] == 1.0
    assert facts["loss_after"] < facts["loss_before"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "opt", "gpt_neox", "gemma3", "bloom, with ALiBi positions"])
def test_of_other_networks(kind: str) -> None:
    """A rate too small to move anything gives the plain scores, up to rounding."""
    from asking import Drawn, shots
    from made_up_configs import compose
    from tiny_answers import task

    from peftbench.build import build_learner
    from peftbench.config import registry
    from peftbench.errors import UsageError
    from peftbench.measure.clock import PhaseClock

    cfg = compose(
        [
            "shots=4",
            "trainer.max_length=64",
            "model=tiny-gpt2",
            "method=icl",
            "method.k=2",
            "method.formulation.max_length=64",
        ]
    )
    cfg.model.arch = ARCHITECTURES[kind]
    net = build_learner(cfg, task(), PhaseClock(), shots())[0].eval()
    declared = registry.get("inference", HSO)
    own = Drawn(net, declared(declared.options(name=HSO, steps=1, rate=1e-9), net))
    if kind == "gemma3":
        with pytest.raises(UsageError, match="a window of the text"):
            own.answer(texts())
        return
    for one, other in zip(own.answer(texts()), own.ask(texts()), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


def one_by_one(network, ids: Tensor, window: int, rate: float) -> tuple[list[float], dict[int, int]]:
    """Streaming with segments of one token, each position's states and moments in a dictionary of its own: the scores,
    and the steps that each kept position has taken."""
    layers = range(network.config.num_hidden_layers)
    kept: dict[int, list[dict[str, Tensor]]] = {}
    ages: dict[int, int] = {}
    scores = []
    for place in range(len(ids) - 1):
        filled = DynamicCache()
        for layer in layers:
            for states in kept.values():
                for name in ("key", "value"):
                    states[layer][name] = states[layer][name].detach().requires_grad_()
            if kept:
                parts = [torch.cat([s[layer][name] for s in kept.values()], dim=2) for name in ("key", "value")]
                filled.update(*parts, layer)
        grown: list[dict[str, Tensor]] = [{} for _ in layers]
        hooks = [_caught(network, layer, grown) for layer in layers]
        logits = network(input_ids=ids[None, place : place + 1], position_ids=torch.tensor([[place]]),
                         past_key_values=filled, use_cache=True).logits  # fmt: skip
        for hook in hooks:
            hook.remove()
        loss = F.cross_entropy(logits[0], ids[place + 1 : place + 2])
        scores.append(-float(loss.detach()))
        kept[place], ages[place] = grown, 0
        every = [(at, layer, name) for at in kept for layer in layers for name in ("key", "value")]
        gradients = torch.autograd.grad(loss, [kept[at][layer][name] for at, layer, name in every])
        ages = {at: age + 1 for at, age in ages.items()}
        for (at, layer, name), gradient in zip(every, gradients, strict=True):
            states = kept[at][layer]
            mean = 0.9 * states.get(f"m {name}", torch.zeros(())) + 0.1 * gradient
            square = 0.999 * states.get(f"s {name}", torch.zeros(())) + 0.001 * gradient**2
            step = (mean / (1 - 0.9 ** ages[at])) / ((square / (1 - 0.999 ** ages[at])).sqrt() + 1e-8)
            states |= {name: states[name].detach() - rate * step, f"m {name}": mean, f"s {name}": square}
        kept = {at: kept[at] for at in list(kept)[-window:]}
        ages = {at: ages[at] for at in kept}
    return scores, ages


def _caught(network, layer: int, grown: list[dict[str, Tensor]]):
    """Keys and values of the next pass' own position in a layer, as the cache is given them, in `grown`."""
    attention = network.model.layers[layer].self_attn

    def before(module, args, given):
        cache, update = given["past_key_values"], type(given["past_key_values"]).update

        def catching(keys, values, number, *more, **options):
            if number == layer:
                keys, values = (t if t.requires_grad else t.requires_grad_() for t in (keys, values))
                grown[layer] = {"key": keys, "value": values}
            return update(cache, keys, values, number, *more, **options)

        cache.update = catching

    return attention.register_forward_pre_hook(before, with_kwargs=True)


def test_moments_go_with_their_states_and_out_of_the_window() -> None:
    network = network_of(drawn("ngram_bias", {}, *SCORE).net.model).requires_grad_(False)
    ids = torch.randint(5, 200, (9,), generator=torch.Generator().manual_seed(0))
    expected, ages = one_by_one(network, ids, window=3, rate=0.05)
    found = torch.cat(list(stream(network, ids, segment=1, window=3, rate=0.05)))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)
    assert ages == {5: 3, 6: 2, 7: 1}


def test_nothing_is_looked_at_before_it_is_scored_and_the_plain_form_is_the_network() -> None:
    network = network_of(drawn("ngram_bias", {}, *SCORE).net.model)
    ids = torch.randint(5, 200, (24,), generator=torch.Generator().manual_seed(1))
    whole = list(stream(network, ids, segment=5, window=12, rate=0.05))
    other = torch.cat([ids[:11], ids[11:].flip(0)])
    for one, two in zip(whole[:2], stream(network, other, segment=5, window=12, rate=0.05), strict=False):
        assert torch.equal(one, two)
    with torch.no_grad():
        logs = network(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)[range(23), ids[1:]]
    plain = torch.cat(list(stream(network, ids, segment=5, window=100, rate=0.0)))
    torch.testing.assert_close(plain, logs, rtol=0, atol=1e-4)
    assert not torch.allclose(torch.cat(whole), plain, atol=1e-3)


def test_a_step_is_that_of_torchs_adam() -> None:
    torch.manual_seed(0)
    first, gradients = torch.randn(1, 2, 3, 4), torch.randn(3, 1, 2, 3, 4)
    states = States([first, first])
    expected = first.clone().requires_grad_()
    adam = torch.optim.Adam([expected], lr=0.1)
    for gradient in gradients:
        states.step([gradient, gradient], 0.1, [0])
        expected.grad = gradient
        adam.step()
    torch.testing.assert_close(states.tensors[0], expected.detach(), rtol=0, atol=1e-5)
