"""LiST and plain self-training: rounds, students, schedules, resumption; on a tiny random backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cut_off_runs import FAST, Killed, finish, killed_at
from made_up_configs import compose
from tiers import rest_slow

from peftbench import build
from peftbench.build import build_learner
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.measure.clock import PhaseClock
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.stages.learning import LearnerPredictor
from peftbench.stages.self_training import rounds as stage
from peftbench.training import batching, loop

OWN = "method.self_training."
SHORT = [f"{OWN}rounds=2", f"{OWN}steps=5", f"{OWN}unlabeled_batch=4", f"{OWN}tuning_steps=2", f"{OWN}meta_batch=3"]
LIST = ["method=list", *SHORT]


class Spy:
    """What happened in a run: learners with their first tensors, what was asked of teachers, items of each training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.learners: list[Any] = []
        self.starts: list[dict[str, torch.Tensor]] = []
        self.asked: list[int] = []
        self.steps: list[int] = []
        new, predict, step = build.new_learner, LearnerPredictor.predict, loop._Engine.step

        def note_learner(session: Any, *args: Any) -> Any:
            learner = new(session, *args)
            self.learners.append(learner)
            self.starts.append({n: t.detach().clone() for n, t in learner.named_parameters()})
            return learner

        def note_predict(predictor: Any, rows: Any) -> Any:
            self.asked.append(len(rows))
            return predict(predictor, rows)

        def note_step(engine: Any, at: int) -> Any:
            self.steps.append(at)
            return step(engine, at)

        monkeypatch.setattr(build, "new_learner", note_learner)
        monkeypatch.setattr(LearnerPredictor, "predict", note_predict)
        monkeypatch.setattr(loop._Engine, "step", note_step)


def test_students_start_from_the_pretrained_model_and_only_adapters_and_head_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    record, _ = finish(tmp_path, *LIST)
    teacher, *students = spy.learners
    assert len(students) == 2
    trained = {n for n, p in teacher.named_parameters() if p.requires_grad}
    frozen = spy.starts[0].keys() - trained
    assert any("word_embeddings" in n for n in frozen)
    assert any("attention" in n for n in frozen)
    adapters = [n for n in trained if "adapter" in n]
    head = trained - set(adapters)
    assert head
    assert adapters
    for learner, start in zip(spy.learners, spy.starts, strict=True):
        now = dict(learner.named_parameters())
        for name in frozen:
            assert torch.equal(now[name], spy.starts[0][name]), name
        for name in head:
            assert torch.equal(start[name], spy.starts[0][name]), "every student begins with the pre-trained head"
        assert any(not torch.equal(now[name], start[name]) for name in head)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for name in adapters:
            assert not torch.equal(spy.starts[one][name], spy.starts[other][name]), "adapters are drawn anew"
    assert record.parameters["module"] == sum(spy.starts[0][n].numel() for n in adapters)
    assert record.parameters["head"] == sum(spy.starts[0][n].numel() for n in head)


def test_steps_and_passes_are_those_of_the_schedule(tmp_path: Path) -> None:
    """First teacher, then S x (U + E ceil(K/b)). A round labels U x b rows; a weighted step passes its rows twice."""
    args = ["method=list", "method/self_training=paper", "trainer=list", "trainer.epochs=3", "protocol=clues_total"]
    args += ["shots=10", "trainer.progress=false", f"{OWN}rounds=2", f"{OWN}steps=5", f"{OWN}unlabeled_batch=4"]
    record, _ = finish(tmp_path, *args, f"{OWN}tuning_epochs=2")
    per_pass = 3  # ceil(10 / 4)
    assert record.compute["steps"] == 3 * per_pass + 2 * (5 + 2 * per_pass)
    first, rounds = record.stages
    assert (first["name"], first["steps"]) == ("supervised", 9)
    assert (rounds["name"], rounds["steps"], rounds["teachers"]) == ("self_training", 22, 2)
    assert [part["name"] for part in rounds["parts"]] == ["round-1", "round-2"]
    assert [part["steps"] for part in rounds["parts"][0]["parts"]] == [5, 6]
    assert rounds["unlabeled_passes"] == 2 * (20 + 20 + 2 * 4)


def test_the_papers_schedule_has_the_papers_steps() -> None:
    cfg = compose(["method=list", "method/self_training=paper", "trainer=list", "protocol=clues_total", "shots=30"])
    own = cfg.method.self_training
    tuning = replace(cfg.trainer, steps=own.tuning_steps, epochs=own.tuning_epochs)
    for k, first in ((10, 150), (20, 250), (30, 400)):
        assert batching.total_steps(cfg.trainer, k) == first
        assert batching.total_steps(tuning, k) == 50 * -(-k // 4)
    assert (own.rounds, own.steps, round(own.uniform_share * own.steps)) == (6, 1000, 600)
    assert (own.unlabeled_batch, own.meta_batch, cfg.trainer.batch_size, own.student_lr) == (16, 4, 4, 1e-4)


def test_the_first_teacher_is_a_run_of_its_own() -> None:
    """The command of docs/stages.md: what LiST is compared with has its words, its rates and its training."""
    ours = compose(["method=list", "trainer=list"])
    lone = ["method=lite", "method/formulation=cloze", "method.formulation.train_head=true"]
    rates = ["method.lr.adapter=3e-4", "method.lr.head=3e-4"]
    other = compose([*lone, *rates, "method.formulation.prefer=[lm_bff]", "trainer=list"])
    assert other.method.tuner == ours.method.tuner
    assert other.method.formulation == ours.method.formulation
    assert other.method.weight_decay == ours.method.weight_decay
    assert set(other.method.lr.values()) == set(ours.method.lr.values())
    assert other.method.stages == ours.method.stages[:1]


def test_without_weights_one_round_is_soft_distillation_and_labelled_tuning(tmp_path: Path) -> None:
    """Against a few lines of plain PyTorch that know neither stage nor student."""
    args = ["method=list", *SHORT, f"{OWN}rounds=1", f"{OWN}meta=none", "trainer.precision=fp32"]
    args.append("method.lr.default=1e-3")  # as `by_hand`
    record, _ = finish(tmp_path, *args)
    cfg = compose([*FAST, f"out_dir={tmp_path}", *args])
    data, drawn, _ = InputCache().load(cfg)
    teacher, _ = build_learner(cfg, data, PhaseClock(), drawn.train)
    by_hand(teacher, teacher.encode(drawn.train), cfg.seed, 4, 2, lambda batch, logits: cross_entropy(logits, batch))
    seed = int(np.random.SeedSequence([cfg.seed, 1]).generate_state(1)[0])
    student, _ = build_learner(replace(cfg, seed=seed), data, PhaseClock(), drawn.train)
    pool = np.random.RandomState(seed).choice(len(drawn.unlabeled), size=20, replace=False)
    items = student.encode([drawn.unlabeled[i] for i in sorted(pool)])
    teacher.eval()
    targets = {}
    for item in items:
        batch = teacher.collate([item])
        with torch.no_grad():
            targets[item.id] = torch.softmax(teacher.formulation.logits(teacher.model, batch)[0], -1)

    def divergence(batch: Any, logits: torch.Tensor) -> torch.Tensor:
        q = torch.stack([targets[id_] for id_ in batch["ids"]])
        return torch.nn.functional.kl_div(torch.log_softmax(logits, -1), q, reduction="batchmean")

    both = course(student, 7)
    by_hand(student, items, seed, 4, 5, divergence, both)
    by_hand(student, student.encode(drawn.train), seed, 4, 2, lambda b, logits: cross_entropy(logits, b), both)
    adapter = Store(tmp_path).folder(record.run_id) / "adapter"
    saved, _ = build_learner(cfg, data, PhaseClock(), drawn.train)
    saved.load(adapter)
    moved = 0.0
    for (name, own), found in zip(student.named_parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-3, atol=1e-4, msg=name)
        moved += float((found - dict(teacher.named_parameters())[name]).detach().abs().sum())
    assert moved > 1


def cross_entropy(logits: torch.Tensor, batch: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, batch["targets"])


def course(learner: Any, steps: int) -> Any:
    """AdamW, and the debug trainer's linear schedule from 1e-3 over so many steps."""
    own = [p for p in learner.parameters() if p.requires_grad]
    matrices, vectors = [p for p in own if p.ndim > 1], [p for p in own if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors}], lr=1e-3, weight_decay=0.0)
    rise = int(np.ceil(0.06 * steps))
    return optimizer, iter(
        [step / rise if step < rise else 1 - (step - rise) / (steps - rise) for step in range(steps)]
    )


def by_hand(learner: Any, items: Any, seed: int, size: int, steps: int, loss: Any, shared: Any = None) -> None:
    """Training with clipping on the batches that the seed gives, in a course of its own or in the one that is given."""
    own = [p for p in learner.parameters() if p.requires_grad]
    optimizer, factors = shared or course(learner, steps)
    learner.train()
    for positions in batching.plan_batches([i.length for i in items], size, steps, seed):
        batch = learner.collate([items[i] for i in positions])
        loss(batch, learner.formulation.logits(learner.model, batch)).backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        factor = next(factors)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * factor
        optimizer.step()
        optimizer.zero_grad()
    learner.eval()


class Relabelled:
    """The data as it is, but every train row that is not drawn has another label."""

    def load(self, cfg: Any) -> Any:
        from peftbench.tasks.protocols import draw

        data, drawn, _ = InputCache().load(cfg)
        kept = {row.id for row in drawn.train}
        wrong = dict(zip(data.labels, (*data.labels[1:], data.labels[0]), strict=True))
        train = [row if row.id in kept else replace(row, target=wrong[str(row.target)]) for row in data.train]
        other = replace(data, train=train)
        again = draw(other, cfg.protocol, cfg.shots, cfg.data_seed, cfg.seed)
        assert [row.id for row in again.train] == [row.id for row in drawn.train]
        return other, again, "relabelled"

    def basis(self, cfg: Any) -> Any:
        return InputCache().basis(cfg)


def test_gold_labels_of_unlabelled_rows_change_nothing(tmp_path: Path) -> None:
    args = [*LIST, "protocol=clues_total", "shots=10"]
    record, files = finish(tmp_path / "real", *args)
    other, others = finish(tmp_path / "other", *args, inputs=Relabelled())
    assert other.curves == record.curves
    assert others["adapter/head.safetensors"] == files["adapter/head.safetensors"]
    assert others["predictions.jsonl"] == files["predictions.jsonl"]


def test_a_row_that_kept_its_label_is_refused(tmp_path: Path) -> None:
    cfg = compose([*FAST, *LIST])
    data, drawn, _ = InputCache().load(cfg)
    careless = replace(drawn, unlabeled=tuple(data.train[:5]))
    with pytest.raises(ValueError, match="has a target"):
        stage.check_run(SimpleNamespace(cfg=cfg, data=data, draw=careless))  # type: ignore[arg-type]


PLACES = [("round-1/unlabeled", 3, 3), ("round-2/labeled", 1, 1), ("round-2/unlabeled", 4, 3)]


@pytest.mark.parametrize(("part", "step", "left"), rest_slow(PLACES, PLACES[2:]))
def test_a_killed_run_goes_on_in_its_round_and_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any, part: str, step: int, left: int
) -> None:
    """Killed in a uniform step, in labelled tuning, or in a weighted step with a checkpoint before it."""
    with killed_at(monkeypatch, part, step), pytest.raises(Killed):
        finish(tmp_path, *LIST, "trainer.checkpoint_every=2")
    spy = Spy(monkeypatch)
    record, files = finish(tmp_path, *LIST, "trainer.checkpoint_every=2")
    done = {"round-1/unlabeled": 2, "round-2/labeled": 0, "round-2/unlabeled": 4}[part]
    total = {"round-1/unlabeled": 5, "round-2/labeled": 2, "round-2/unlabeled": 5}[part]
    assert spy.steps[: total - done] == list(range(done, total))
    asked = {"round-1/unlabeled": [20, 105], "round-2/labeled": [105], "round-2/unlabeled": [105]}[part]
    assert spy.asked == asked, "the teacher of the part that was cut off is not asked again"
    assert record.curves == whole[0].curves
    assert record.notes == whole[0].notes
    assert record.compute["steps"] == whole[0].compute["steps"]
    names = ("steps", "tokens", "unlabeled_passes", "teachers")
    for cut, entire in zip(record.stages, whole[0].stages, strict=True):
        assert [cut.get(n) for n in names] == [entire.get(n) for n in names]
    assert files == whole[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, dict[str, bytes]]:
    """The undisturbed run."""
    return finish(tmp_path_factory.mktemp("whole"), *LIST)


def test_weighted_steps_are_told(whole: Any) -> None:
    notes = [note for note in whole[0].notes if "weights of 2 steps" in note]
    assert len(notes) == 2
    assert all("forward-mode" in note for note in notes)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=list", "method/tuner=lora", *SHORT],
        ["method=self_training", *SHORT[:3], f"{OWN}threshold=0.1", f"{OWN}rounds=1"],
        ["method=self_training", *SHORT[:3], f"{OWN}threshold=0", f"{OWN}rounds=1", "shots=0"],
        [
            "method=self_training",
            "method/formulation=head",
            *SHORT[:3],
            f"{OWN}threshold=0",
            f"{OWN}reinitialise=false",
        ],
        [
            "method=list",
            *SHORT,
            f"{OWN}variant=released",
            f"{OWN}rounds=1",
            "trainer.micro_batch=2",
            "trainer.probe=true",
        ],
    ],
)
def test_variations_run(tmp_path: Path, overrides: list[str]) -> None:
    record, _ = finish(tmp_path, *overrides)
    assert (record.status, record.stages[1]["name"]) == ("done", "self_training")
    assert record.stages[1]["unlabeled_passes"] > 0


def test_not_reinitialised_the_student_is_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    finish(tmp_path, *LIST, f"{OWN}reinitialise=false")
    assert len(spy.learners) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=list", "shots=0"], "shots of 1 and more"),
        (["method=self_training", "method/formulation=generate", "model=tiny-t5"], "method/formulation=cloze"),
        (["method=list", "shots=full", "protocol=full"], "Use fewer shots"),
        (["method=list", *SHORT, f"{OWN}threshold=1.0"], "no pseudo label reaches it"),
    ],
)
def test_what_cannot_work_is_said_in_one_message(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        finish(tmp_path, *overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_two_processes_choose_the_same_weights_and_learn_the_same(tmp_path: Path) -> None:
    args = [*LIST, "trainer.precision=fp32"]
    one, _ = finish(tmp_path / "one", *args)
    two, _ = finish(tmp_path / "two", *args, "trainer.devices=2")
    assert two.environment["n_devices"] == 2
    assert two.curves["loss"] == pytest.approx(one.curves["loss"], rel=1e-3)
    assert [n for n in two.notes if "weights of" in n] == [n for n in one.notes if "weights of" in n]
    for name in ("steps", "tokens", "unlabeled_passes", "teachers"):
        assert two.stages[1][name] == one.stages[1][name]
