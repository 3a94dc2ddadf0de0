"""The `ensemble` stage: a cloze model a pattern and repetition, and what they say together about unlabelled rows.

Pattern-exploiting training (PET) and its iterated form (iPET): Schick and Schuetze, EACL 2021, arXiv 2001.07676,
sections 3.2 and 3.4. What the paper leaves open follows the released code, except where docs/stages.md says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.formulations.cloze import ClozeConfig
from peftbench.formulations.cloze.formulation import pattern_set
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import LearnerPredictor, fresh, train_on
from peftbench.stages.ledger import Trained, once
from peftbench.stages.pseudo_labels import Matrix, draw_others, draw_pseudo_labelled, softmax, weighted_mean, wishes
from peftbench.tasks.metrics import score

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig, TrainerConfig
    from peftbench.tasks.base import Row

PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "masakhanews": {
        "pattern": {"steps": None, "epochs": 3, "batch_size": 4},
        "classifier": {"steps": None, "epochs": 3, "batch_size": 4},
    },
    "paper_250_5000": {
        "pattern": {"steps": 250, "epochs": None, "batch_size": 16},
        "classifier": {"steps": 5000, "epochs": None, "batch_size": 16},
    },
}
"""`method.pet.schedule` -> lengths of training. Both fall in a line from the first step on, without warm-up."""


@dataclass(frozen=True)
class Member:
    """A model of the ensemble: pattern and repetition, from 0, and the generation of iPET that it belongs to."""

    pattern: int
    repetition: int
    generation: int = 0

    @property
    def name(self) -> str:
        """Of its part of the stage."""
        first = f"generation-{self.generation}-" if self.generation else ""
        return f"{first}pattern-{self.pattern}-{self.repetition}"

    def seed(self, seed: int, purpose: int = 0) -> int:
        """A seed of its own, whatever was trained before it."""
        numbers = [seed, purpose, self.generation, self.pattern, self.repetition]
        return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Answers(Trained):
    """What a member leaves, as a part that the ledger can keep; its weights are not kept.

    Attributes:
        logits: (unlabelled rows, classes), fp32.
        weight: main metric of the untrained model on the labelled rows, in percent; 1 if that was not asked for.
    """

    def __init__(self, rows: int, classes: int) -> None:
        self.logits = torch.zeros(rows, classes)
        self.weight = 1.0

    def training_state(self) -> dict[str, Tensor]:
        return {"logits": self.logits, "weight": torch.tensor([self.weight], dtype=torch.float64)}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.logits, self.weight = state["logits"], float(state["weight"])


class Teachers(Predictor):
    """What an ensemble says about unlabelled rows. The models themselves are gone.

    Attributes:
        rows: the unlabelled rows.
        logits: (rows, classes) float32 in the order of the task's labels: the members' weighted mean.
    """

    def __init__(self, rows: Sequence[Row] = (), logits: Matrix | None = None) -> None:
        self.rows, self.logits = rows, np.zeros((0, 0), np.float32) if logits is None else logits

    def predict(self, rows: Sequence[Row]) -> Any:
        raise UsageError("method.stages: `ensemble` only labels unlabelled rows; `distillation` must follow it.")

    def counts(self) -> dict[str, int]:
        return {"module": 0, "head": 0, "total": 0}

    def save(self, folder: Path) -> None:
        """Nothing: what it said is in the classifier."""


def ensemble(context: Context, incoming: Predictor | None) -> Predictor:
    """Train every member on the labelled rows, and on rows that others have labelled in later generations of iPET.

    Returns:
        The `Teachers`, from the last generation.

    Raises:
        UsageError: the config cannot be an ensemble's (see `check`).
    """
    cfg = context.cfg.method.options("pet")
    members = check(context)
    report = StageReport("ensemble")
    rows = unlabeled_pool(context, report)
    answers: list[Answers] = []
    for generation in range(cfg.generations):
        team = [replace(member, generation=generation) for member in members]
        extra = next_sets(context, team, answers, rows, report) if answers else [()] * len(team)
        answers = []
        for member, pseudo in zip(team, extra, strict=True):
            answers.append(Answers(len(rows), len(context.data.labels)))
            with context.part(member.name):
                work = partial(teach, context, member, pseudo, rows, answers[-1])
                report.add_part(once(context, answers[-1], work, part=member.name))
            if report.status == "diverged":
                context.reports.append(report)
                return Teachers()
    report.notes += remarks(context, members, answers)
    context.reports.append(report)
    return Teachers(rows, mean_logits(answers))


def pairs(stages: Sequence[str]) -> list[tuple[str, str]]:
    """Every stage with the one behind it, or "" if it is the last."""
    return list(zip(stages, [*stages[1:], ""], strict=True))


def check_run(context: Context) -> None:
    """Whether the run can have an ensemble; raises what `check` does."""
    check(context)


def check(context: Context) -> list[Member]:
    """The members of a generation; a config that cannot work is refused before anything is trained.

    Raises:
        UsageError: no cloze formulation, no classes, no such pattern, no unlabelled rows, no `distillation` behind,
            or iPET without labelled rows or with a single model.
    """
    method, cfg = context.cfg.method, context.cfg.method.options("pet")
    formulation = method.formulation
    if not isinstance(formulation, ClozeConfig):
        raise UsageError(
            f"method/formulation={formulation.name}: the `ensemble` stage has a model a pattern; use "
            "method/formulation=cloze."
        )
    if any(follows != "distillation" for name, follows in pairs(method.stages) if name == "ensemble"):
        raise UsageError("method.stages: `ensemble` only labels rows; put `distillation` right behind it.")
    if context.data.problem != "classification":
        raise UsageError(
            f"method={method.name}: the models vote on classes, and task {context.data.name} is a "
            f"{context.data.problem} task. Use method=lm_bff."
        )
    if not context.draw.unlabeled:
        raise UsageError(
            f"method={method.name} needs unlabelled rows: with shots={context.cfg.shots} the draw leaves none. Use "
            "fewer shots."
        )
    count = 1 if formulation.template is not None else len(pattern_set(context.data, formulation).patterns)
    patterns = list(range(count)) if cfg.patterns is None else cfg.patterns
    if not patterns or len(set(patterns)) < len(patterns) or not all(0 <= p < count for p in patterns):
        raise UsageError(
            f"method.pet.patterns={patterns}: give different numbers from 0 to {count - 1}, or null for all of the "
            "task's patterns (method.formulation.patterns says of which set)."
        )
    members = [Member(p, repetition) for p in patterns for repetition in range(cfg.repetitions)]
    if cfg.generations > 1 and (len(members) == 1 or not context.draw.train):
        why = "one model, and each learns from others" if context.draw.train else "no labelled rows (shots=0)"
        raise UsageError(f"method.pet.generations={cfg.generations}: there is {why}. Use method.pet.generations=1.")
    return members


def unlabeled_pool(context: Context, report: StageReport) -> list[Row]:
    """The unlabelled rows that are used, the same for every training seed; never the drawn ones."""
    rows, limit = list(context.draw.unlabeled), context.cfg.method.options("pet").unlabeled
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.RandomState(context.draw.data_seed).permutation(len(rows))[:limit]
    report.notes.append(f"method.pet.unlabeled: {limit:,} of {len(rows):,} unlabelled rows")
    return [rows[i] for i in sorted(chosen)]


def trainer_of(cfg: RunConfig, model: str) -> TrainerConfig:
    """The run's trainer with the length of training that `method.pet` gives a `pattern` model or the `classifier`."""
    pet = cfg.method.options("pet")
    if pet.schedule != "steps":
        return replace(cfg.trainer, **PUBLISHED[pet.schedule][model], schedule="linear", warmup=0.0)
    steps = pet.pattern_steps if model == "pattern" else pet.classifier_steps
    return replace(cfg.trainer, steps=steps, epochs=None)


def member_config(cfg: RunConfig, member: Member) -> RunConfig:
    """The run's config with the member's pattern, seed and length of training."""
    formulation = replace(cfg.method.formulation, pattern=member.pattern)  # type: ignore[call-arg]
    method = replace(cfg.method, formulation=formulation)
    first = member.repetition == 0 and member.generation == 0  # a step of the others costs the same
    trainer = replace(trainer_of(cfg, "pattern"), probe=cfg.trainer.probe and first)
    return replace(cfg, seed=member.seed(cfg.seed), method=method, trainer=trainer)


def teach(
    context: Context, member: Member, pseudo: Sequence[Row], rows: Sequence[Row], answers: Answers, folder: Path
) -> StageReport:
    """Train a member on the labelled and the `pseudo`-labelled rows (with neither it stays as it is), and put what it
    then says about `rows` into `answers`."""
    cfg = member_config(context.cfg, member)
    predictor = fresh(context, cfg)
    labelled = context.draw.train
    report = StageReport(member.name, teachers=1)
    if cfg.method.options("pet").reduction == "wmean" and labelled:
        answers.weight = untrained_score(context, predictor)
    if train := [*labelled, *pseudo]:
        ids = {row.id for row in pseudo}
        items = predictor.encode(train)
        train_on(context, predictor.learner, items, folder, report, cfg=cfg, unlabeled=ids)
    if report.status == "done":
        answers.logits = torch.from_numpy(class_scores(context, predictor, rows))
        report.unlabeled_passes += len(rows)
    return report


def untrained_score(context: Context, predictor: LearnerPredictor) -> float:
    """Main metric of a model on the labelled rows before it has seen them, in percent; not below 0."""
    rows = context.draw.train
    with context.clock("train"), context.meter.phase("train"):
        predictions = predictor.predict(rows)
    return max(0.0, score(context.data, rows, [p.label for p in predictions])[context.data.main_metric])


def class_scores(context: Context, predictor: LearnerPredictor, rows: Sequence[Row]) -> Matrix:
    """(rows, classes) float32 logits in the order of the task's labels."""
    predictor.encode(rows)
    with context.clock("train"), context.meter.phase("train"):
        predictions = predictor.predict(rows)
    return np.array([[p.scores[label] for label in context.data.labels] for p in predictions], dtype=np.float32)


def mean_logits(answers: Sequence[Answers]) -> Matrix:
    """(rows, classes) float32: the members' logits, averaged by their weights."""
    return weighted_mean([a.logits.numpy() for a in answers], [a.weight for a in answers])


def next_sets(
    context: Context, team: Sequence[Member], answers: Sequence[Answers], rows: Sequence[Row], report: StageReport
) -> list[list[Row]]:
    """iPET: for each member of the next generation, rows labelled by some of the *other* models of the last one."""
    cfg, labels, labelled = context.cfg.method.options("pet"), context.data.labels, context.draw.train
    generation = team[0].generation
    want = wishes([str(row.target) for row in labelled], labels, cfg.growth**generation)
    likely = cfg.likely if generation == 1 else 0
    sets = []
    for position, member in enumerate(team):
        random = np.random.RandomState(member.seed(context.cfg.seed, purpose=1))
        teachers = [answers[i] for i in draw_others(position, len(team), cfg.share, random)]
        probabilities = softmax(mean_logits(teachers))
        sets.append(draw_pseudo_labelled(rows, probabilities, labels, want, likely, random))
    sizes = sorted(len(drawn) for drawn in sets)
    report.notes.append(
        f"generation {generation + 1}: {len(labelled)} labelled and {sizes[0]:,} to {sizes[-1]:,} pseudo-labelled rows "
        f"a model; {sum(want.values()):,} were wanted"
    )
    return sets


def remarks(context: Context, members: Sequence[Member], answers: Sequence[Answers]) -> list[str]:
    """What a reader of the result must know about the ensemble."""
    cfg = context.cfg.method.options("pet")
    patterns = len({member.pattern for member in members})
    words = f"ensemble of {len(members)} models ({patterns} patterns x {cfg.repetitions})"
    notes = [words + (f", {cfg.generations} generations" if cfg.generations > 1 else "")]
    if cfg.reduction == "wmean" and not context.draw.train:
        notes.append("no labelled rows: all models weigh the same, and none was trained")
    elif cfg.reduction == "wmean" and not any(a.weight for a in answers):
        notes.append("every model scored 0 before training: all weigh the same (wmean has fallen back to mean)")
    elif cfg.reduction == "wmean":
        notes.append("weights (score before training): " + ", ".join(f"{a.weight:.1f}" for a in answers))
    if context.cfg.method.tuner.name != "full":
        notes.append(f"PET with method/tuner={context.cfg.method.tuner.name} is ours: the paper trains all weights")
    return notes
