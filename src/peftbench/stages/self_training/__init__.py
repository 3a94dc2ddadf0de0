"""The `self_training` stage: a teacher labels unlabelled rows, a student learns from its labels and teaches in turn."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.components import TRAINING
from peftbench.config.schema import number, one_of, packaged
from peftbench.stages.base import Stage


@packaged("method/self_training/short")
@dataclass
class SelfTrainingOptions:
    """`method.self_training`: students that learn from a teacher's labels, round by round."""

    rounds: int = number(ge=1)
    steps: int = number(ge=1)
    unlabeled_batch: int = number(ge=1)
    pool: int | None = number(ge=1)
    labels: str = one_of("soft", "hard")
    threshold: float = number(ge=0, le=1)
    with_labeled: bool = MISSING
    meta: str = one_of("none", "closed_form")
    uniform_share: float = number(ge=0, le=1)
    meta_batch: int = number(ge=1)
    variant: str = one_of("paper", "released")
    inner_lr: float = number(gt=0)
    tuning_steps: int | None = number(ge=0)
    tuning_epochs: float | None = number(gt=0)
    student_lr: float | None = number(gt=0)
    reinitialise: bool = MISSING


STAGE = Stage(
    results_version=2,
    run="peftbench.stages.self_training.rounds:self_training",
    check="peftbench.stages.self_training.rounds:check_run",
    options=SelfTrainingOptions,
    section="self_training",
    uses=TRAINING,
    steps_key="method.self_training.steps",
)
