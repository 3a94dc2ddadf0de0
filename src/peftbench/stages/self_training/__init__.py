"""The `self_training` stage: a teacher labels unlabelled rows, a student learns from its labels and teaches in turn."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.components import TRAINING
from peftbench.config.schema import number, one_of
from peftbench.stages.base import Stage


@dataclass
class SelfTrainingOptions:
    """`method.self_training`: students that learn from a teacher's labels, round by round."""

    rounds: int = number(1, ge=1)
    steps: int = number(160, ge=1)
    unlabeled_batch: int = number(16, ge=1)
    pool: int | None = number(None, ge=1)
    labels: str = one_of("soft", "hard", default="soft")
    threshold: float = number(0.0, ge=0, le=1)
    with_labeled: bool = False
    meta: str = one_of("none", "closed_form", default="none")
    uniform_share: float = number(0.6, ge=0, le=1)
    meta_batch: int = number(4, ge=1)
    variant: str = one_of("paper", "released", default="paper")
    inner_lr: float = number(5.0e-6, gt=0)
    tuning_steps: int | None = number(None, ge=0)
    tuning_epochs: float | None = number(None, gt=0)
    student_lr: float | None = number(None, gt=0)
    reinitialise: bool = True


STAGE = Stage(
    results_version=2,
    run="peftbench.stages.self_training.rounds:self_training",
    check="peftbench.stages.self_training.rounds:check_run",
    options=SelfTrainingOptions,
    section="self_training",
    uses=TRAINING,
    steps_key="method.self_training.steps",
)
