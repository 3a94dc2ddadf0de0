"""The stage `reinforcement`: exact starts, losses against NumPy, whole small runs, cut-off ones, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cut_off_runs import Killed, killed_at
from made_up_configs import compose
from tiny_answers import ARCHITECTURES, learner, texts

from peftbench.config import registry
from peftbench.config.schema import packaged_values
from peftbench.config.sections import build
from peftbench.errors import UsageError
from peftbench.formulations.base import Encoded
from peftbench.inputs import InputCache
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.stages.reinforcement.policy import CURVES, Policy
from peftbench.tuners.base import Tuner

ROWS = [replace(row, id=f"train:{i}") for i, row in enumerate(texts() + texts())]
METHODS = ("ppo", "rloo", "grpo")


def judge(name: str, text: str) -> tuple[float, bool, bool]:
    """Some reward, another for each text."""
    return (len(text) % 5 - 2.0, len(text) % 5 == 0, len(text) % 5 == 4)


def policy(method: str = "ppo", *overrides: str, arch: Any = None, **options: Any) -> tuple[Policy, list[Encoded]]:
    """In train mode, over LoRA that has changed nothing yet; and its prompts."""
    posed = ["method/formulation=generate", "method.formulation.answer_tokens=5"]
    made = learner("method=lora", *posed, *overrides, arch=arch or ARCHITECTURES["llama"])
    given = compose([f"method={method}", "model=tiny-gpt2"]).method.reinforcement
    own = Policy(made, judge, replace(given, **options), seed=1, precision="fp32", budget=256)
    own.train()
    items = [replace(item, weight=1.0) for item in made.encode(ROWS)]
    return own, items


def moved(own: Policy) -> None:
    """Another adapter than the one that drew, as after a step."""
    with torch.no_grad():
        for number, parameter in enumerate(p for group in own.param_groups().values() for p in group):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))


@pytest.mark.parametrize(
    ("arch", "micro_batch"),
    [
        ("llama", 4),
        ("t5", None),
        *(pytest.param(name, 4, marks=pytest.mark.slow) for name in ("gpt2", "gemma3", "t5", "bart")),
    ],
)
def test_the_first_ratio_is_1_and_the_first_kl_is_0_exactly(arch: str, micro_batch: int | None) -> None:
    own, items = policy(arch=ARCHITECTURES[arch], micro_batch=micro_batch)
    own.begin_step(0, 1, items)
    assert own.round is not None
    assert torch.equal(own.round.old, own.round.reference)
    assert dict(zip(CURVES, own.history[0].tolist(), strict=True))["kl"] == 0.0
    size = micro_batch or len(items)
    for start in range(0, len(items), size):
        batch = own.collate(items[start : start + size])
        new, _ = own._read(batch)
        assert new.requires_grad
        assert torch.equal(new.detach(), batch["old"])


@pytest.mark.parametrize(
    "tuner", ["prompt_tuning", *(pytest.param(name, marks=pytest.mark.slow) for name in ("prefix_tuning", "pfeiffer"))]
)
def test_the_reference_is_the_network_without_the_tuner(tuner: str) -> None:
    own, items = policy("ppo", f"method/tuner={tuner}", "~method.lr", arch=None)
    moved(own)
    bare, _ = policy()
    drawn = own.answer(items[:2], "0", samples=2)
    prompts = [item.data["prompt"] for item in items[:2] for _ in range(2)]
    wanted, _ = bare._read(bare._forced(prompts, drawn.answers))
    assert torch.allclose(drawn.reference, wanted, atol=1e-5)
    assert not torch.allclose(drawn.old, wanted, atol=1e-3)


def test_the_reference_may_be_the_start_of_the_stage() -> None:
    own, items = policy("ppo", "method/tuner=full", "~method.lr", reference="start")
    before = own.answer(items[:2], "0", samples=1)
    assert torch.equal(before.old, before.reference)
    moved(own)
    after = own.answer(items[:2], "0", samples=1)
    assert not torch.allclose(after.old, after.reference, atol=1e-3)
    assert torch.equal(own.answer(items[:2], "0", samples=1).old, after.old), "the weights are back"


def test_draws_follow_from_seed_round_row_and_number_alone() -> None:
    own, items = policy()
    alone = own.answer(items[1:2], "7", samples=3).answers
    together = own.answer(items, "7", samples=3).answers[3:6]
    assert all(map(torch.equal, alone, together))
    assert len({tuple(answer.tolist()) for answer in alone}) == 3
    other = own.answer(items[1:2], "8", samples=3).answers
    assert not all(a.tolist() == b.tolist() for a, b in zip(alone, other, strict=True))


def by_hand(own: Policy, items: list[Encoded]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each answer of the round the log-probabilities of its tokens and the values, one answer at a time in plain
    torch: whole logits, and hidden states of the network's own giving."""
    assert own.round is not None
    network = own.learner.model
    found, values = [], []
    answers = own.round.tokens.split(own.round.lengths.tolist())
    prompts = [item.data["prompt"] for item in items for _ in range(own.options.samples)]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer.tolist()]])
        with torch.no_grad():
            out = network(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        shares = out.logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        found.append(shares[torch.arange(len(answer)), answer].double().numpy())
        if own.head is not None:
            with torch.no_grad():
                values.append(own.head(out.hidden_states[-1][0, len(prompt) - 1 : -1])[:, 0].double().numpy())
    return found, values


def loss_by_hand(method: str, own: Policy, items: list[Encoded], old: list[np.ndarray], ref: list[np.ndarray]) -> float:
    """The round's mean loss by the papers' formulas; `old`: log-probabilities when it was drawn."""
    new, values = by_hand(own, items)
    text = own.texts(own.round.tokens.split(own.round.lengths.tolist()))  # type: ignore[union-attr]
    rewards = np.array([judge("", t)[0] for t in text])
    groups, beta = rewards.reshape(-1, own.options.samples), own.options.beta

    def clip(ratio: Any, advantage: Any) -> Any:
        return -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)

    if method == "rloo":
        given = rewards - beta * np.array([(o - r).sum() for o, r in zip(old, ref, strict=True)])
        own_groups = given.reshape(groups.shape)
        k = groups.shape[1]
        advantages = (own_groups - (own_groups.sum(1, keepdims=True) - own_groups) / (k - 1)).ravel()
        ratios = np.exp([(n - o).sum() for n, o in zip(new, old, strict=True)])
        return float(np.mean(clip(ratios, advantages)))
    if method == "grpo":
        advantages = ((groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()
        terms = zip(new, old, ref, advantages, strict=True)
        return float(np.mean([
            (clip(np.exp(n - o), a) + beta * (np.exp(r - n) - (r - n) - 1)).mean() for n, o, r, a in terms
        ]))  # fmt: skip
    advantages, returns = [], []
    for o, r, reward in zip(old, ref, rewards, strict=True):  # values were 0 when the round was drawn
        steps = -beta * (o - r)
        steps[-1] += reward
        a = [sum(0.95 ** (s - t) * steps[s] for s in range(t, len(steps))) for t in range(len(steps))]
        advantages.append(np.array(a))
        returns.append(np.array(a))
    flat = np.concatenate(advantages)
    white = (flat - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-8)
    n, o, v, ret = map(np.concatenate, (new, old, values, returns))
    value = 0.5 * np.maximum((v - ret) ** 2, (np.clip(v, -0.2, 0.2) - ret) ** 2)
    return float((clip(np.exp(n - o), white) + 0.1 * value).mean())


@pytest.mark.parametrize(("method", "micro_batch"), [("ppo", 2), ("rloo", None), ("grpo", 2)])
def test_the_loss_is_the_papers(method: str, micro_batch: int | None) -> None:
    options = {"micro_batch": micro_batch, "samples": 3, "beta": 0.3, "most_ratio": None}
    own, items = policy(method, **options)
    moved(own)
    if own.head is not None:
        torch.nn.init.zeros_(own.head.weight)
        torch.nn.init.zeros_(own.head.bias)
    own.begin_step(0, 1, items)
    old, _ = by_hand(own, items)
    with own._reference():
        ref, _ = by_hand(own, items)
    assert np.allclose(np.concatenate(old), own.round.old, atol=1e-5)  # type: ignore[union-attr]
    own.beta = own.options.beta  # what PPO adapts counts for the next round
    moved(own)
    size = micro_batch or len(items)
    batches = [own.collate(items[start : start + size]) for start in range(0, len(items), size)]
    with torch.no_grad():
        found = sum(float(own(batch)) for batch in batches) / len(items)
    assert found == pytest.approx(loss_by_hand(method, own, items, old, ref), abs=1e-5)


def test_a_pass_whose_ratio_ran_away_is_left_out() -> None:
    own, items = policy(most_ratio=1.0001)
    own.begin_step(0, 1, items)
    batch = own.collate(items)
    own(batch).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in own.parameters())
    own.zero_grad()
    batch["old"] = batch["old"] - 1
    own(batch).backward()
    assert all(p.grad is None or not p.grad.any() for p in own.parameters())
    assert own.tally[2] == 1


TINY = (
    "model=tiny-gpt2", "task=demo_news", "tracking.wandb=disabled", "shots=2", "trainer=debug", "trainer.device=cpu",
    "trainer.precision=fp32", "trainer.probe=false", "protocol.dev=none", "trainer.save=all", "protocol.select=last",
    "trainer.max_length=48", "method.formulation.prompt_number=1", "protocol.test_rows=14",
    "method.reinforcement.batch_size=4", "method.reinforcement.steps=6",
)  # fmt: skip


def finish(folder: Path, *overrides: str, inputs: InputCache | None = None) -> tuple[Record, dict[str, bytes]]:
    record, _ = run(compose([*TINY, f"out_dir={folder}", *overrides]), inputs)
    assert record is not None
    assert record.status == "done", record.reason
    home = Store(folder).folder(record.run_id)
    kept = ("adapter/adapter_model.safetensors", "predictions.jsonl")
    return record, {name: (home / name).read_bytes() for name in kept}


EXACT = ("scores", "curves")


def test_a_killed_run_goes_on_within_a_round_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, given = InputCache(), ("method=ppo", "trainer.checkpoint_every=1", "method.reinforcement.lr.default=1e-2")
    whole, files = finish(tmp_path / "whole", *given, inputs=inputs)
    with killed_at(monkeypatch, "1-reinforcement", 3), pytest.raises(Killed):  # the first round has steps 0 to 3
        finish(tmp_path / "cut", *given, inputs=inputs)
    record, again = finish(tmp_path / "cut", *given, inputs=inputs)
    assert again == files
    assert all(getattr(record, name) == getattr(whole, name) for name in EXACT)
    assert [s["facts"] for s in record.stages] == [s["facts"] for s in whole.stages]


def test_a_record_has_greedy_and_drawn_scores_and_curves(tmp_path: Path) -> None:
    given = ("method.stages=[supervised,reinforcement]", "trainer.steps=30", "method.lr.default=1e-2")
    record, _ = finish(tmp_path, "method=ppo", "model=tiny-t5", *given, "method/tuner=pfeiffer")
    assert {"f1_weighted", "f1_weighted_sampled", "accuracy_sampled", "invalid", "reward", "kl"} <= {*record.scores}
    assert {*CURVES} <= {*record.curves}
    assert record.curves["round_step"] == [0.0, 4.0]
    assert record.curves["step"] == [1, 2, 3, 4, 5, 6]
    assert record.curves["kl"][0] > 0, "the reference is the network before the supervised stage"
    assert [s["name"] for s in record.stages] == ["supervised", "reinforcement"]
    assert record.stages[1]["facts"]["rounds"] == 2
    assert record.stages[1]["facts"]["value_parameters"] == 65
    assert record.scores["kl"] > 0


def test_without_steps_answers_are_measured_alone(tmp_path: Path) -> None:
    record, _ = finish(tmp_path, "method=rloo", "method.reinforcement.steps=0")
    assert record.scores["kl"] == 0
    assert record.scores["reward"] == -3 * record.scores["invalid"] / 100 - (1 - record.scores["invalid"] / 100) + (
        2 * record.scores["accuracy_sampled"] / 100
    )
    assert record.compute["steps"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_rewards_rise(tmp_path: Path, method: str) -> None:
    """From a supervised start that answers some rows: more of them, and fewer that are none."""
    record, _ = finish(
        tmp_path, f"method={method}", "method.stages=[supervised,reinforcement]", "trainer.steps=40", "shots=8",
        "method.lr.default=1e-2", "method/tuner=pfeiffer", "method.reinforcement.batch_size=8",
        "method.reinforcement.steps=60", "method.reinforcement.lr.default=3e-3",
    )  # fmt: skip
    rewards = record.curves["reward"]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.2


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["method=ppo", "method/tuner=full", "~method.lr"], "method/tuner=full cannot be.*reference=start"),
        (["method=ppo", "method/tuner=bitfit"], "method/tuner=bitfit cannot be"),
        (["method=ppo", "method/formulation=score", "~method.formulation.by"], "are written out.*formulation=generate"),
        (["method=ppo", "method.formulation.by=score"], "formulation=prompted: .*by=generate"),
        (["method=ppo", "method.formulation.constrain=labels"], "constrain=labels: .*constrain=none"),
        (["method=ppo", "method.formulation.sample=true"], "sample=true: .*sample=false"),
        (["method=grpo", "method.reinforcement.samples=1"], "samples=1: grpo compares.*2 and more"),
        (["method=ppo", "task=jfleg"], "no reward for text targets.*classification, regression"),
        (
            ["method=ppo", "model=tiny-bert", "method/formulation=auto", "~method.formulation.by"],
            "formulation=auto: .*generate",
        ),
        (["method=ppo", "method.reinforcement.algorithm=reinforce"], "algorithm=reinforce: not a valid choice"),
        (["method=ppo", "+method.reinforcement.reward_maybe=1"], "reward_maybe"),
        (["method=ppo", "method.reinforcement.reward_right=good"], "reward_right=good: must be a number"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_read(keys: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        compose(["model=tiny-gpt2", "task=sst2", *keys])


def test_a_full_network_has_its_start_for_a_reference() -> None:
    given = ["method=ppo", "method/tuner=full", "method.reinforcement.reference=start"]
    assert compose(["model=tiny-gpt2", "task=sst2", *given]).method.tuner.name == "full"


def test_tuners_say_themselves_whether_they_can_be_switched_off() -> None:
    """What a config is checked by, against the class of the tuner."""
    for name in sorted(registry.built_in("tuner") - {"file", "none", "head_only"}):
        declared = registry.get("tuner", name)
        given = {"type": "LORA"} if name == "peft" else {}
        options = build(declared.options, {**packaged_values(f"method/tuner/{name}"), **given}, "method.tuner")
        built = declared.build_function()
        switch = getattr(built, "disabled", Tuner.disabled)
        assert declared.switches_off(options) == (switch is not Tuner.disabled), name
