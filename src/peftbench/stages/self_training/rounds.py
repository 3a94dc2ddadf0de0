"""The `self_training` stage: a teacher labels unlabelled rows, a student learns from its labels and teaches in turn.

LiST (Wang et al., Findings of NAACL 2022, arXiv 2110.06274): soft labels; a student that starts from the pre-trained
model; weights by `peftbench.stages.self_training.meta_weights` in the later steps; then the labelled rows. With
`meta: none` and a threshold it is plain self-training. Gold labels of the unlabelled rows are never there to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.formulations import declared_for
from peftbench.formulations.base import Encoded
from peftbench.formulations.soft_targets import with_soft_target
from peftbench.measure.probe import count_flops
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import (
    DEFAULT_RATE,
    LearnerPredictor,
    constant_groups,
    fresh,
    learning_rates,
    train_on,
    uses_dev,
)
from peftbench.stages.ledger import once
from peftbench.stages.self_training.student import Labelled, Student
from peftbench.stages.supervised.training import fit
from peftbench.training import checkpoint
from peftbench.training.batching import total_steps
from peftbench.training.optim import Course, build_optimizer, load_optimizer_tensors, optimizer_tensors

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig, TrainerConfig
    from peftbench.formulations.base import Prediction
    from peftbench.learner import Learner
    from peftbench.tasks.base import Row

NAME, LABELS, MOMENTS = "self_training", "pseudo-labels", "optimizer/"
"""The stage; the teacher's labels in the folder of a round, which a resumed run goes on with; and what the names of the
optimiser's tensors begin with there."""


def self_training(context: Context, incoming: Predictor | None) -> Predictor:
    """Rounds of self-training; returns the last student.

    Args:
        incoming: the first teacher; None takes an untrained learner.

    Raises:
        UsageError: no pseudo label of a round reaches the threshold.
    """
    report = StageReport(NAME)
    teacher: Predictor = incoming or fresh(context)
    for number in range(1, context.cfg.method.options("self_training").rounds + 1):
        with context.part(f"round-{number}"):
            teacher, part = one_round(context, teacher, number)
        report.add_part(part)
        report.notes += [f"round {number}: {note}" for note in part.notes]
        report.lr, report.curves, report.dev_score = part.lr, part.curves, part.dev_score
        if part.status == "diverged":
            break
    context.reports.append(report)
    return teacher


def check_run(context: Context) -> None:
    """What can be said before anything is trained.

    Raises:
        UsageError: there are no unlabelled rows, or no labelled ones for the weights; the task has no classes, or the
            formulation no scores for them.
        ValueError: an unlabelled row has a target, which nobody may see.
    """
    cfg, data, draw = context.cfg, context.data, context.draw
    method = f"method={cfg.method.name}"
    if data.problem != "classification":
        raise UsageError(f"{method}: self-training needs classes, and task {data.name} is a {data.problem} task.")
    if not declared_for(cfg.method.formulation, cfg.model.family, cfg.labelled, data.problem).class_scores:
        raise UsageError(
            f"{method}: a student learns the scores of all classes, and method/formulation="
            f"{cfg.method.formulation.name} has none. Use method/formulation=cloze or method/formulation=head."
        )
    if not draw.unlabeled:
        raise UsageError(
            f"{method}: no unlabelled rows are left under shots={cfg.shots}. Use fewer shots: train rows that are not "
            "drawn are the unlabelled ones."
        )
    if any(row.target is not None for row in draw.unlabeled):
        raise ValueError("an unlabelled row has a target")
    meta = cfg.method.options("self_training").meta
    if meta != "none" and not draw.train:
        raise UsageError(
            f"method.self_training.meta={meta}: weights are chosen by labelled rows, and "
            "shots=0 draws none. Use method.self_training.meta=none, or shots of 1 and more."
        )


def one_round(context: Context, teacher: Predictor, number: int) -> tuple[LearnerPredictor, StageReport]:
    """The student of the 1-based round, after its steps on pseudo labels and on the labelled rows."""
    cfg = round_config(context.cfg, number)
    own = replace(context, cfg=cfg)
    name = f"round-{number}"
    anew = cfg.method.options("self_training").reinitialise
    student = fresh(own, cfg) if anew else another_time(context, teacher, number)
    report = StageReport(name)
    course = one_course(own, student)
    both, part = WithOptimizer(student.learner, course.optimizer), f"{name}/unlabeled"
    with context.part(part):
        first = once(own, both, lambda f: from_teacher(own, student, teacher, course, f), part)
    report.add_part(first)
    report.notes, report.lr, report.curves = list(first.notes), first.lr, first.curves
    if first.status == "done" and tunes(own):
        rest = replace(course, done=first.steps)
        with context.part(f"{name}/labeled"):
            second = once(own, student.learner, lambda f: from_labels(own, student, rest, f), f"{name}/labeled")
        report.add_part(second)
        report.lr, report.curves, report.dev_score = second.lr, second.curves, second.dev_score
    return student, report


def round_config(cfg: RunConfig, number: int) -> RunConfig:
    """The run's config with the round's own seed, which decides the student's start, its batches and its rows, and with
    the students' learning rate."""
    seed = int(np.random.SeedSequence([cfg.seed, number]).generate_state(1)[0])
    rate = cfg.method.options("self_training").student_lr
    method = cfg.method if rate is None else replace(cfg.method, lr={DEFAULT_RATE: rate})
    return replace(cfg, seed=seed, method=method)


def tunes(context: Context) -> bool:
    """Whether a round ends with steps on the labelled rows."""
    return bool(context.draw.train) and context.cfg.method.options("self_training").tuning_steps != 0


def labelled_trainer(context: Context) -> TrainerConfig:
    """The run's trainer with the length of a student's training on the labelled rows."""
    cfg, trainer = context.cfg.method.options("self_training"), context.cfg.trainer
    if cfg.tuning_steps is None and cfg.tuning_epochs is None:
        return trainer
    return replace(trainer, steps=cfg.tuning_steps, epochs=cfg.tuning_epochs)


def one_course(context: Context, student: LearnerPredictor) -> Course:
    """One AdamW and one schedule over both parts of a round, as in the released code: the labelled rows are learned
    with what is left of the rate."""
    cfg, learner = context.cfg.method, student.learner
    steps = cfg.options("self_training").steps
    if tunes(context):
        steps += total_steps(labelled_trainer(context), len(context.draw.train))
    rates = learning_rates(context, learner, cfg.lr)
    return Course(
        build_optimizer(learner.param_groups(), rates, cfg.weight_decay, constant=constant_groups(context, learner)),
        steps,
    )


class WithOptimizer:
    """A learner and its optimiser, for a part whose optimiser goes on in the part after it."""

    def __init__(self, learner: Learner, optimizer: torch.optim.AdamW) -> None:
        self.learner, self.optimizer = learner, optimizer
        self.names: dict[Tensor, str] = {p: name for name, p in learner.named_parameters() if p.requires_grad}

    def training_state(self) -> dict[str, Tensor]:
        """Tensors by name, on the CPU."""
        moments = optimizer_tensors(self.optimizer, self.names)
        return {**self.learner.training_state(), **{MOMENTS + name: t for name, t in moments.items()}}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` gave."""
        moments = {name.removeprefix(MOMENTS): t for name, t in state.items() if name.startswith(MOMENTS)}
        load_optimizer_tensors(self.optimizer, self.names, moments)
        self.learner.load_training_state({name: t for name, t in state.items() if not name.startswith(MOMENTS)})


def another_time(context: Context, teacher: Predictor, number: int) -> LearnerPredictor:
    """The teacher as its own student (`reinitialise: false`)."""
    student = teacher if isinstance(teacher, LearnerPredictor) else fresh(context)
    student.learner.tuner.on_round(student.learner.model, number)
    return student


def from_teacher(
    context: Context, student: LearnerPredictor, teacher: Predictor, course: Course, folder: Path
) -> StageReport:
    """Have a sample of the unlabelled rows labelled and train on them. `context` has the round's config."""
    cfg = context.cfg.method.options("self_training")
    rows = sample(context.draw.unlabeled, cfg.pool or cfg.steps * cfg.unlabeled_batch, context.cfg.seed)
    report = StageReport("unlabeled", teachers=1, unlabeled_passes=len(rows))
    targets = pseudo_labels(context, teacher, rows, folder.parent)
    labelled = student.encode(context.draw.train) if context.draw.train else []
    items = confident_items(context, student.encode(rows), targets, report)
    if cfg.with_labeled and labelled:
        gold = one_hot(torch.tensor([item.data["target"] for item in labelled]), targets.shape[-1])
        items += [with_soft_target(item, target) for item, target in zip(labelled, gold, strict=True)]
    trainer = replace(context.cfg.trainer, steps=cfg.steps, epochs=None, batch_size=cfg.unlabeled_batch, patience=None)
    learner = new_student(context, student, trainer, labelled)
    own, unlabeled = replace(context.cfg, trainer=trainer), {row.id for row in rows}
    train_on(context, cast("Learner", learner), items, folder, report, cfg=own, unlabeled=unlabeled, course=course)
    if trainer.probe and report.status == "done":
        with context.clock("probe"):
            report.step_flops = (report.step_flops or 0.0) + weighting_flops(learner, items, trainer)
    report.unlabeled_passes += learner.weighting_passes
    report.notes += learner.notes()
    return report


def confident_items(
    context: Context, encoded: Sequence[Encoded], targets: Tensor, report: StageReport
) -> list[Encoded]:
    """The items whose target, (items, classes), reaches the threshold, with it: soft, or as the teacher's choice.

    Raises:
        UsageError: there are none.
    """
    cfg = context.cfg.method.options("self_training")
    confident: Tensor = targets.max(-1).values >= cfg.threshold
    if not confident.any():
        raise UsageError(
            f"method.self_training.threshold={cfg.threshold}: no pseudo label reaches it; the highest probability is "
            f"{float(targets.max()):.3f}. Lower it."
        )
    if not confident.all():
        count = int(confident.sum())
        report.notes.append(f"{count} of {len(encoded)} pseudo labels reach the threshold {cfg.threshold:g}")
    if cfg.labels == "hard":
        targets = one_hot(targets.argmax(-1), targets.shape[-1])
    return [with_soft_target(encoded[i], targets[i]) for i in confident.nonzero().flatten().tolist()]


def sample(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """At most `count` of the rows, in their order."""
    if len(rows) <= count:
        return list(rows)
    chosen = np.random.RandomState(seed).choice(len(rows), size=count, replace=False)
    return [rows[i] for i in sorted(chosen)]


def one_hot(classes: Tensor, count: int) -> Tensor:
    """(n,) class numbers -> (n, count) fp32."""
    return torch.nn.functional.one_hot(classes, count).float()


def pseudo_labels(context: Context, teacher: Predictor, rows: Sequence[Row], folder: Path) -> Tensor:
    """The teacher's class probabilities of `rows`, (rows, classes), fp32, without temperature.

    They are kept in `folder`: an attempt that goes on from here must not learn from labels that differ in the last bit.
    """
    path, dist, ids = folder / LABELS, context.processes(), [row.id for row in rows]
    if dist.broadcast(checkpoint.sound(path) if dist.main else None):
        tensors, facts = checkpoint.load(path)
        if facts["ids"] == ids:
            return tensors["probabilities"]
    with context.clock("train"), context.meter.phase("train"):
        probabilities = class_probabilities(teacher.predict(rows), context.data.labels)
    if dist.main:
        with context.clock("save"):
            checkpoint.write(path, {"probabilities": probabilities}, {"ids": ids}, context.attempt.check)
    dist.barrier()
    return probabilities


def class_probabilities(predictions: Sequence[Prediction], labels: Sequence[str]) -> Tensor:
    """Softmax of the predictions' scores, (predictions, labels), fp32."""
    scores = torch.tensor([[p.scores[label] for label in labels] for p in predictions], dtype=torch.float64)
    return torch.softmax(scores, -1).float()


def new_student(
    context: Context, student: LearnerPredictor, trainer: TrainerConfig, labelled: Sequence[Encoded]
) -> Student:
    """The student for the loop: uniform weights in the first share of the steps, then meta weights, if there are any.

    The released code falls between its two cases at the step on the border, which is uniform there.
    """
    cfg, dist = context.cfg.method.options("self_training"), context.processes()
    if cfg.meta == "none":
        return Student(student.learner, cfg, dist, trainer.micro_batch)
    plan = Labelled.planned(labelled, cfg.meta_batch, cfg.steps, context.cfg.seed)
    first = round(cfg.uniform_share * cfg.steps) + (cfg.variant == "released")
    return Student(student.learner, cfg, dist, trainer.micro_batch, plan, first)


def weighting_flops(student: Student, items: Sequence[Encoded], trainer: TrainerConfig) -> float:
    """FLOPs of choosing the weights of one step on the longest items; 0 if no step is weighted."""
    if student.labelled is None or student.first >= student.cfg.steps:
        return 0.0
    longest = sorted(items, key=lambda item: -item.length)[: trainer.batch_size]
    trial = Student(student.learner, student.cfg, student.dist, student.micro_batch, student.labelled, student.first)
    trial.forward_mode = True
    return count_flops(lambda: trial.begin_step(student.first, 0, longest))


def from_labels(context: Context, student: LearnerPredictor, course: Course, folder: Path) -> StageReport:
    """Train the student on the labelled rows, as the `supervised` stage would, for its own number of steps and with
    what `course` leaves of the rate."""
    trainer = labelled_trainer(context)
    student.encode(context.draw.train)
    if uses_dev(context):
        student.encode(context.draw.dev)
    # the tracker counts steps once, and shows the first teacher's
    report = fit(replace(context, cfg=replace(context.cfg, trainer=trainer), log=None), student, folder, course)
    report.name = "labeled"
    return report
