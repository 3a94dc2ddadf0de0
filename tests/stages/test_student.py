"""A student as the loop sees it: its loss, its weights, what it keeps, and how it falls back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_up_configs import compose
from tiny_soft import tiny
from torch import nn
from transformers import AutoModelForMaskedLM, RobertaConfig

from peftbench.config.schema import TrainerConfig
from peftbench.formulations.base import Encoded
from peftbench.formulations.cloze.formulation import ClozeFormulation
from peftbench.formulations.soft_targets import SOFT_TARGETS, soft_losses, with_soft_target
from peftbench.inputs import InputCache
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.models.base import Backbone
from peftbench.models.random_init import build_tokenizer
from peftbench.stages.self_training import SelfTrainingOptions
from peftbench.stages.self_training.student import Labelled, Student, effective_size
from peftbench.training.distributed import Dist
from peftbench.training.loop import train
from peftbench.tuners import TunerContext, build_tuner

ALONE = Dist(torch.device("cpu"))
CFG = SelfTrainingOptions(meta="closed_form", meta_batch=4, steps=10)


@pytest.fixture(scope="module")
def made() -> Any:
    """A tiny learner off its start, its labelled items and ten items with soft targets."""
    learner, labelled, soft = tiny("method=list", shots=2)
    return SimpleNamespace(learner=learner, labelled=labelled, soft=soft)


def student(made: Any, dist: Any = ALONE, micro_batch: int | None = None, first: int = 6, cfg: Any = CFG) -> Student:
    plan = Labelled.planned(made.labelled, cfg.meta_batch, cfg.steps, seed=1)
    return Student(made.learner, cfg, dist, micro_batch, plan, first)


def test_uniform_steps_are_the_sum_of_divergences_however_cut(made: Any) -> None:
    own = student(made)
    own.begin_step(5, 1, made.soft)
    batch = own.collate(made.soft)
    logits = made.learner.formulation.logits(made.learner.model, batch)
    expected = soft_losses(logits, batch[SOFT_TARGETS]).sum()
    torch.testing.assert_close(own(batch), expected)
    parts = sum(own(own.collate(made.soft[a : a + 3])) for a in range(0, 10, 3))
    torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-4)
    assert own.weighting_passes == 0


def test_weights_of_a_step_have_mean_one_and_do_not_depend_on_the_cut(made: Any) -> None:
    whole, cut = student(made), student(made, micro_batch=3)
    for each in (whole, cut):
        each.learner.train()
        each.begin_step(6, 1, made.soft)
        assert each.learner.training, "the mode is put back"
    assert sum(whole.weights.values()) == pytest.approx(len(made.soft))
    assert min(whole.weights.values()) == 0 < max(whole.weights.values())
    assert list(cut.weights.values()) == pytest.approx(list(whole.weights.values()), rel=1e-4, abs=1e-5)
    batch = whole.collate(made.soft)
    losses = soft_losses(made.learner.formulation.logits(made.learner.model, batch), batch[SOFT_TARGETS])
    expected = sum(whole.weights[item.id] * loss for item, loss in zip(made.soft, losses, strict=True))
    torch.testing.assert_close(whole(batch), expected)
    assert all(p.grad is None for p in made.learner.parameters())


def test_processes_share_the_work_and_agree(made: Any) -> None:
    """Two ranks in one process: what each gathers is what both computed."""
    alone = student(made)
    alone.begin_step(7, 1, made.soft)
    found: list[list[float]] = []
    for rank in (0, 1):
        half = student(made, dist=SimpleNamespace(device=ALONE.device, rank=rank, world=2, gather=lambda v: [v, v]))
        half._products = spy(half._products, found, rank)  # type: ignore[method-assign]
        half.begin_step(7, 1, made.soft)
    first, second = found
    whole = SimpleNamespace(device=ALONE.device, rank=0, world=2, gather=lambda own: [own, second])
    assert len(first) == len(second) == 5
    both = student(made, dist=whole)
    both.begin_step(7, 1, made.soft)
    assert list(both.weights.values()) == pytest.approx(list(alone.weights.values()), rel=1e-4, abs=1e-5)


def spy(products: Any, found: list[list[float]], rank: int) -> Any:
    def look(*args: Any) -> torch.Tensor:
        values = products(*args)
        found.append(values[rank::2].tolist())
        return values

    return look


def test_what_it_counts_survives_a_checkpoint(made: Any) -> None:
    own = student(made)
    for step in (5, 6, 7):
        own.begin_step(step, 1, made.soft)
    other = student(made)
    other.load_training_state({name: tensor.clone() for name, tensor in own.training_state().items()})
    other.forward_mode = own.forward_mode
    assert own.weighting_passes == other.weighting_passes == 20
    assert own.notes() == other.notes()
    assert "weights of 2 steps" in own.notes()[0]


def test_steps_without_any_weight_are_counted_and_move_nothing(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = student(made)
    monkeypatch.setattr(own, "_products", lambda items, labelled: -torch.ones(len(items)))
    own.begin_step(8, 1, made.soft)
    assert set(own.weights.values()) == {0.0}
    assert own(own.collate(made.soft)).item() == 0
    assert "in 1 of them all weights were 0" in own.notes()[0]


class NoForwardMode(torch.autograd.Function):
    """The identity, without a forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Hidden(nn.Module):
    """Scales by a parameter that is reached past the module's own attribute, as a careless tuner might do it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.outside = (self.scale,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.outside[0]


@pytest.mark.parametrize("kind", ["no forward mode", "hidden parameter"])
def test_what_forward_mode_cannot_do_gets_a_backward_pass_an_item(
    made: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = made.learner.formulation.logits
    hidden = Hidden()
    change = NoForwardMode.apply if kind == "no forward mode" else hidden
    monkeypatch.setattr(made.learner.formulation, "logits", lambda *args: change(logits(*args)))
    if kind == "hidden parameter":
        monkeypatch.setitem(made.learner._modules, "hidden", hidden)
    own = student(made)
    own.begin_step(6, 1, made.soft)
    assert own.forward_mode is False
    assert "a backward pass for each item" in own.notes()[0]
    monkeypatch.undo()
    usual = student(made)
    usual.begin_step(6, 1, made.soft)
    assert usual.forward_mode is True
    if kind == "no forward mode":
        assert list(own.weights.values()) == pytest.approx(list(usual.weights.values()), rel=1e-3, abs=1e-4)


class Linear(nn.Module):
    """A linear classifier of 20 numbers with what the loop and a student ask of a learner."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model = nn.Linear(20, 3)
        self.formulation = SimpleNamespace(logits=lambda model, batch: model(batch["x"]))

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def collate(self, items: Any) -> Any:
        batch = {"ids": [i.id for i in items], "x": torch.stack([i.data["x"] for i in items])}
        known = [i.data["target"] for i in items if i.data["target"] is not None]
        return {**batch, "targets": torch.tensor(known)}

    def forward(self, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(batch["x"]), batch["targets"], reduction="sum")

    def begin_step(self, *_: Any) -> None: ...

    before_step = after_step = begin_step

    def param_groups(self) -> Any:
        return {"all": list(self.parameters())}

    def trainable_state(self) -> Any:
        return {n: p.detach().clone() for n, p in self.named_parameters()}


def accuracy_under_a_noisy_teacher(seed: int, weighted: bool) -> float:
    """Of a student whose teacher is wrong, and sure of it, on 45 % of the rows; 30 labelled rows are right."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 20, generator=draw)
    classes = torch.randint(3, (1230,), generator=draw)
    x = centres[classes] + 2.0 * torch.randn(1230, 20, generator=draw)
    told = torch.where(torch.rand(1230, generator=draw) < 0.45, (classes + 1) % 3, classes)
    sure = nn.functional.one_hot(told, 3).float()
    labelled = [Encoded(f"l{i}", 1, 1.0, {"x": x[i], "target": int(classes[i])}) for i in range(30)]
    items = [Encoded(f"u{i}", 1, 1.0, {"x": x[i], "target": None}) for i in range(30, 730)]
    soft = [with_soft_target(item, sure[30 + i]) for i, item in enumerate(items)]
    learner: Any = Linear(seed)
    cfg = SelfTrainingOptions(meta="closed_form", meta_batch=8, steps=150)
    plan = Labelled.planned(labelled, cfg.meta_batch, cfg.steps, seed) if weighted else None
    own: Any = Student(learner, cfg, ALONE, None, plan, first=round(cfg.uniform_share * cfg.steps))
    trainer = TrainerConfig(name="toy", steps=150, batch_size=16, device="cpu", progress=False, precision="fp32")
    train(
        own, soft, cfg=trainer, lr={"all": 0.03}, weight_decay=0.0, seed=seed, select="last", evaluate=None,
        clock=PhaseClock(), dist=ALONE,
    )  # fmt: skip
    return float((learner.model(x[730:]).argmax(-1) == classes[730:]).float().mean())


def test_under_a_noisy_teacher_weights_help() -> None:
    """On four toy tasks, in the loop as it is, against the same training without weights."""
    for seed in range(4):
        assert accuracy_under_a_noisy_teacher(seed, True) > accuracy_under_a_noisy_teacher(seed, False) + 0.05


def test_effective_size() -> None:
    assert effective_size(torch.tensor([0.25, 0.25, 0.25, 0.25])) == pytest.approx(4)
    assert effective_size(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_size(torch.zeros(3)) == 0


def test_roberta_large_trains_the_papers_number_of_parameters() -> None:
    """14 million, the released code's sum: adapters and the head without the vocabulary that it shares."""
    cfg = compose(["method=list", "task=demo_news"])
    data, _, _ = InputCache().load(cfg)
    config = RobertaConfig(
        vocab_size=50265, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    )
    tokenizer = build_tokenizer("roberta", None)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
        backbone = Backbone(
            name="roberta-large", family="encoder", purpose="mlm", model=model, tokenizer=tokenizer,
            hidden_size=1024, max_positions=512, pooling="mean", prefix="", revision="", source="meta",
        )  # fmt: skip
        formulation = ClozeFormulation(backbone, data, 128, cfg.method.formulation)
        learner = Learner(backbone, build_tuner(cfg.method.tuner), formulation, TunerContext(128, (), 1))
    counts = learner.counts()
    assert counts["module"] == 24 * 2 * 2 * 1024 * 128 == 12_582_912
    assert counts["head"] == 1_101_913
    assert sum(p.numel() for p in learner.parameters() if p.requires_grad) == 13_684_825
