"""PET and iPET on a tiny network: what the ensemble says, what the classifier learns from, and cut-off runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cut_off_runs import Killed, killed_at
from made_up_configs import compose

from peftbench import session as session_module
from peftbench.errors import UsageError
from peftbench.formulations.predictions import Prediction
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.stages.distillation import pupil as distillation_module
from peftbench.stages.distillation.pupil import distillation_loss
from peftbench.stages.ensemble import members as ensemble_module
from peftbench.stages.ensemble.members import Member, class_scores, trainer_of
from peftbench.training import loop
from peftbench.training.batching import total_steps

FAST = ["model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2", "method=pet"]
SHORT = ["method.pet.pattern_steps=4", "method.pet.classifier_steps=5", "method.pet.unlabeled=20"]
HERE = ["trainer.device=cpu", "trainer.precision=fp32", "trainer.probe=false", "trainer.eval_every=5"]
ARGS = [*FAST, *SHORT, *HERE]
CLASSES = 7


class Seen:
    """What went through a run: the members' logits and weights, their training rows, and the classifier's targets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logits: dict[str, np.ndarray] = {}
        self.weights: dict[str, float] = {}
        self.pseudo: dict[str, list[Any]] = {}
        self.targets: list[np.ndarray] = []
        self.order: list[str] = []
        teach, soft = ensemble_module.teach, distillation_module.with_soft_target

        def spy_teach(context: Any, member: Member, pseudo: Any, rows: Any, answers: Any, folder: Path) -> Any:
            self.order.append(member.name)
            report = teach(context, member, pseudo, rows, answers, folder)
            self.logits[member.name], self.weights[member.name] = answers.logits.numpy().copy(), answers.weight
            self.pseudo[member.name] = list(pseudo)
            return report

        def spy_soft(item: Any, probabilities: Any) -> Any:
            self.targets.append(probabilities.numpy().copy())
            return soft(item, probabilities)

        monkeypatch.setattr(ensemble_module, "teach", spy_teach)
        monkeypatch.setattr(distillation_module, "with_soft_target", spy_soft)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def finish(folder: Path, *args: str) -> Record:
    record, _ = run(compose([*ARGS, f"out_dir={folder}", *args]))
    assert record is not None
    assert record.status == "done", record.reason
    return record


def predictions(folder: Path, record: Record) -> bytes:
    return (Store(folder).folder(record.run_id) / "predictions.jsonl").read_bytes()


def test_targets_are_the_weighted_mean_at_the_temperature(tmp_path: Path, seen: Seen) -> None:
    record = finish(tmp_path, "method.pet.patterns=[0,3]", "method.pet.repetitions=2")
    names = [f"pattern-{p}-{r}" for p in (0, 3) for r in (0, 1)]
    assert seen.order == names
    logits, weights = np.stack([seen.logits[n] for n in names]), np.array([seen.weights[n] for n in names])
    assert logits.shape == (4, 20, CLASSES)
    assert logits.dtype == np.float32
    assert seen.weights["pattern-0-0"] == seen.weights["pattern-0-1"]  # before training repetitions are alike
    assert not np.array_equal(seen.logits["pattern-0-0"], seen.logits["pattern-0-1"])  # and after it not
    assert not np.array_equal(seen.logits["pattern-0-0"], seen.logits["pattern-3-0"])
    mean = (weights[:, None, None] * logits.astype(np.float64)).sum(0) / weights.sum()
    powers = np.exp(mean / 2)
    assert np.stack(seen.targets) == pytest.approx(powers / powers.sum(1, keepdims=True), abs=1e-6)
    first, second = record.stages
    assert (first["teachers"], first["unlabeled_passes"], first["steps"]) == (4, 80, 16)
    assert [part["name"] for part in first["parts"]] == names
    assert all(part["unlabeled_passes"] == 20 and part["steps"] == 4 for part in first["parts"])
    batch = record.config["trainer"]["batch_size"]
    assert second["steps"] == 5
    assert 4 * batch < second["unlabeled_passes"] <= 5 * batch
    assert record.compute["steps"] == 21
    assert record.model_info["formulation"] == "head"


def test_one_model_is_its_own_ensemble(tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it says does not depend on which models are trained beside it."""
    handed: list[np.ndarray] = []
    real = distillation_module.distil

    def spy(context: Any, predictor: Any, teachers: Any, *args: Any) -> Any:
        handed.append(teachers.logits)
        return real(context, predictor, teachers, *args)

    monkeypatch.setattr(distillation_module, "distil", spy)
    finish(tmp_path, "method.pet.patterns=[1]", "method.pet.reduction=mean")
    alone = seen.logits["pattern-1-0"]
    assert np.array_equal(handed[0], alone)
    finish(tmp_path, "method.pet.patterns=[0,1]", "method.pet.reduction=mean")
    assert np.array_equal(seen.logits["pattern-1-0"], alone)
    assert handed[1] == pytest.approx((seen.logits["pattern-0-0"] + alone) / 2, abs=1e-6)


def test_models_that_score_0_before_training_weigh_the_same(
    tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_module, "untrained_score", lambda *_: 0.0)
    weighted = finish(tmp_path / "wmean", "method.pet.patterns=[0,1]")
    assert any("fallen back to mean" in note for note in weighted.notes)
    assert set(seen.weights.values()) == {0.0}
    plain = finish(tmp_path / "mean", "method.pet.patterns=[0,1]", "method.pet.reduction=mean")
    assert predictions(tmp_path / "wmean", weighted) == predictions(tmp_path / "mean", plain)


@pytest.mark.slow
def test_labels_of_unlabelled_rows_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draw takes them off; and were wrong ones still there, nothing would change."""
    drawn: list[Any] = []
    real = session_module.Session.__init__

    def mislabelled(session: Any, cfg: Any, data: Any, draw: Any, *rest: Any) -> None:
        drawn.append(draw)
        labels = np.random.RandomState(0).choice(data.labels, size=len(draw.unlabeled))
        wrong = (replace(row, target=str(label)) for row, label in zip(draw.unlabeled, labels, strict=True))
        real(session, cfg, data, replace(draw, unlabeled=tuple(wrong)), *rest)

    args = ["method.pet.patterns=[0,1]", "method.pet.generations=2", "method.pet.growth=3"]
    bare = finish(tmp_path / "bare", *args)
    with monkeypatch.context() as patch:
        patch.setattr(session_module.Session, "__init__", mislabelled)
        named = finish(tmp_path / "named", *args)
    assert all(row.target is None for row in drawn[0].unlabeled)
    assert not {row.id for row in drawn[0].unlabeled} & {row.id for row in drawn[0].train}
    assert predictions(tmp_path / "bare", bare) == predictions(tmp_path / "named", named)


def test_generations_learn_from_what_others_said(tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, list[int]]] = []
    real = ensemble_module.draw_others

    def spy(position: int, *args: Any) -> list[int]:
        chosen.append((position, real(position, *args)))
        return chosen[-1][1]

    monkeypatch.setattr(ensemble_module, "draw_others", spy)
    record = finish(tmp_path, "method=ipet", "method.pet.patterns=[0,1,2]", "method.pet.growth=1.5", *SHORT)
    assert len(record.stages[0]["parts"]) == 9
    last = [f"generation-2-pattern-{p}-0" for p in range(3)]
    mean = np.average([seen.logits[n] for n in last], axis=0, weights=[seen.weights[n] for n in last])
    powers = np.exp(mean.astype(np.float64) / 2)
    assert np.stack(seen.targets) == pytest.approx(powers / powers.sum(1, keepdims=True), abs=1e-6)
    labels = record.data["labels"]
    ids = [f"train:{i}" for i in range(308)]
    for (position, (teacher,)), name in zip(chosen, [f"generation-1-pattern-{p}-0" for p in range(3)], strict=False):
        assert teacher != position
        answers = seen.logits[f"pattern-{teacher}-0"].argmax(1)
        given = [labels.index(row.target) for row in seen.pseudo[name]]
        # 2 shots x 1.5 wants one row more of each class; a class that the teacher named in no row gets none
        assert given == sorted(set(answers.tolist()))
        assert all(row.id in ids for row in seen.pseudo[name])
    assert len(seen.pseudo["pattern-0-0"]) == 0
    assert record.stages[0]["unlabeled_passes"] > 9 * 20  # labelling, and learning from pseudo-labelled rows


def test_without_shots_untrained_models_teach(tmp_path: Path, seen: Seen) -> None:
    record = finish(tmp_path, "shots=0", "method.pet.patterns=[0,1]")
    first, second = record.stages
    assert (first["steps"], first["teachers"], first["unlabeled_passes"]) == (0, 2, 40)
    assert second["steps"] == 5
    assert set(seen.weights.values()) == {1.0}
    assert any("none was trained" in note for note in record.notes)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["method/formulation=head", "~method.formulation.prefer"], ["ensemble", "method/formulation=cloze"]),
        (["method.stages=[ensemble]"], ["ensemble", "put `distillation` right behind it"]),
        (["method.stages=[ensemble,none,distillation]"], ["put `distillation` right behind it"]),
        (["method.stages=[supervised,distillation]"], ["distillation", "needs `ensemble`"]),
        (["method.stages=[distillation]"], ["distillation", "needs `ensemble`"]),
        (["shots=full"], ["unlabelled rows", "fewer shots"]),
        (["method.pet.patterns=[9]"], ["method.pet.patterns=[9]", "0 to 4"]),
        (["method.pet.patterns=[1,1]"], ["different numbers"]),
        (["method.pet.patterns=[0]", "method.pet.generations=2"], ["method.pet.generations=2", "one model"]),
        (["shots=0", "method.pet.generations=2"], ["method.pet.generations=2", "shots=0"]),
        (["model=tiny-gpt2"], ["causal"]),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: list[str]
) -> None:
    monkeypatch.setattr(loop._Engine, "step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(UsageError) as caught:
        run(compose([*ARGS, f"out_dir={tmp_path}", *args]))
    for word in words:
        assert word in str(caught.value)
    assert Store(tmp_path).all() == []


def test_lengths_of_the_published_schedules() -> None:
    """Three passes at batch 4 over 25 rows are the 21 steps of the MasakhaNEWS runs at 5 shots and 5 classes."""
    masakhanews = compose([*FAST, "method.pet.schedule=masakhanews"])
    paper = compose([*FAST, "method.pet.schedule=paper_250_5000"])
    own = compose([*FAST, "method.pet.pattern_steps=7", "method.pet.classifier_steps=9", "trainer.epochs=3"])
    assert total_steps(trainer_of(masakhanews, "pattern"), 25) == 21
    assert total_steps(trainer_of(masakhanews, "classifier"), 400) == 300
    assert [total_steps(trainer_of(paper, m), 25) for m in ("pattern", "classifier")] == [250, 5000]
    assert trainer_of(paper, "pattern").batch_size == 16
    assert [total_steps(trainer_of(own, m), 25) for m in ("pattern", "classifier")] == [7, 9]
    assert trainer_of(masakhanews, "pattern").warmup == trainer_of(paper, "classifier").warmup == 0


def test_every_model_has_a_seed_of_its_own() -> None:
    members = [Member(p, r, g) for p in range(5) for r in range(3) for g in range(3)]
    seeds = [member.seed(s, purpose) for member in members for s in (1, 2) for purpose in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert len({member.name for member in members}) == len(members)


def test_scores_stand_by_label_name() -> None:
    """Whatever order a prediction lists them in."""

    backwards = SimpleNamespace(
        encode=lambda rows: None,
        predict=lambda rows: [Prediction("x", "b", {"c": 3.0, "b": 2.0, "a": 1.0})],
    )
    context: Any = SimpleNamespace(
        data=SimpleNamespace(labels=("a", "b", "c")),
        clock=lambda phase: nullcontext(),
        meter=SimpleNamespace(phase=lambda phase: nullcontext()),
    )
    assert class_scores(context, cast(Any, backwards), []).tolist() == [[1.0, 2.0, 3.0]]


# --- the loss


def test_the_loss_by_hand() -> None:
    logits, teachers, t = (
        np.array([[1.0, -1.0, 0.5], [0.0, 2.0, 2.0]]),
        np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]]),
        2.0,
    )

    def soft(x: np.ndarray) -> np.ndarray:
        return np.exp(x / t) / np.exp(x / t).sum(1, keepdims=True)

    q, p = soft(teachers), soft(logits)
    by_hand = t**2 * (q * np.log(q / p)).sum()
    z = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    loss = distillation_loss(z, torch.tensor(q, dtype=torch.float32), t)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert z.grad is not None
    assert z.grad.numpy() == pytest.approx(t * (p - q), abs=1e-5)  # T, not 1/T: what the T^2 is for


def test_the_loss_is_0_where_pupil_and_teachers_agree() -> None:
    z = torch.randn(4, 5, requires_grad=True)
    loss = distillation_loss(z, torch.softmax(z.detach() / 2, -1), 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-6
    sure = torch.tensor([[1.0, 0.0]])
    assert torch.isfinite(distillation_loss(torch.tensor([[60.0, -60.0]]), sure, 2.0))


def test_the_pupil_learns_the_soft_labels_and_the_teachers_stay(tmp_path: Path, seen: Seen) -> None:
    """Trained long enough on few rows, the loss falls towards 0 (it is a KL divergence), and no teacher is there any
    more to be changed."""
    args = ["method.pet.patterns=[0]", "method.pet.unlabeled=6", "method.pet.classifier_steps=60", "shots=1"]
    record = finish(tmp_path, *args, "method.lr.default=1e-3", "method.lr.head=1e-2", "protocol.dev=none")
    losses = record.curves["loss"]
    assert losses[-1] < losses[0] / 5
    assert min(losses) > -1e-4
    assert record.lr == {"backbone": 1e-3, "head": 1e-2}


# --- cut-off runs


@pytest.mark.slow
def test_a_killed_run_goes_on_at_its_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    args = ["method.pet.patterns=[0,1]", "method.pet.generations=2", "method.pet.growth=2", "trainer.dropout=0.1"]
    whole = finish(tmp_path / "whole", *args)
    seen.order.clear()
    again: Callable[[], Record] = lambda: finish(tmp_path / "cut", *args, "trainer.checkpoint_every=2")  # noqa: E731
    for part, step in (("pattern-1-0", 3), ("generation-1-pattern-1-0", 1), ("2-distillation", 3)):
        with killed_at(monkeypatch, part, step), pytest.raises(Killed):
            again()
    (facts,) = (tmp_path / "cut").rglob("generation-1-pattern-0-0/finished/state.json")
    assert json.loads(facts.read_text())["report"]["teachers"] == 1
    steps: list[int] = []
    with monkeypatch.context() as patch:
        real = loop._Engine.step
        patch.setattr(loop._Engine, "step", lambda engine, at: steps.append(at) or real(engine, at))
        cut = again()
    assert steps == [2, 3, 4]  # the classifier's, from its checkpoint: no model was trained again
    first, later = ["pattern-0-0", "pattern-1-0"], ["generation-1-pattern-0-0", "generation-1-pattern-1-0"]
    assert seen.order == [*first, "pattern-1-0", *later, "generation-1-pattern-1-0"]
    assert predictions(tmp_path / "cut", cut) == predictions(tmp_path / "whole", whole)
    assert (cut.scores, cut.curves, cut.dev_score) == (whole.scores, whole.curves, whole.dev_score)
    for name in ("steps", "unlabeled_passes", "teachers"):
        assert [stage.get(name) for stage in cut.stages] == [stage.get(name) for stage in whole.stages]
    assert cut.compute["attempts"] == 4
    spent = sum(stage["seconds"]["train"] for stage in cut.stages)
    assert spent == pytest.approx(cut.seconds["train"], abs=1e-9)
    assert not list((tmp_path / "cut").rglob("finished"))
