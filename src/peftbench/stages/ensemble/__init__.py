"""The `ensemble` stage: a cloze model a pattern and repetition (PET, iPET). Its options are `distillation`'s too."""

from __future__ import annotations

from dataclasses import dataclass, field

from peftbench.config.components import TRAINING
from peftbench.config.schema import number, one_of
from peftbench.stages.base import Stage


@dataclass
class PetOptions:
    """`method.pet`, of `ensemble` and `distillation`: models of several patterns that teach a classifier."""

    patterns: list[int] | None = field(default=None, metadata={"ge": 0})
    repetitions: int = number(1, ge=1)
    unlabeled: int | None = number(None, ge=1)
    schedule: str = one_of("steps", "masakhanews", "paper_250_5000", default="steps")
    pattern_steps: int = number(80, ge=1)
    classifier_steps: int = number(320, ge=1)
    reduction: str = one_of("wmean", "mean", default="wmean")
    temperature: float = number(2.0, gt=0)
    generations: int = number(1, ge=1)
    growth: float = number(5.0, gt=1)
    share: float = number(0.25, gt=0, le=1)
    likely: int = number(0, ge=0)


STAGE = Stage(
    run="peftbench.stages.ensemble.members:ensemble",
    check="peftbench.stages.ensemble.members:check_run",
    options=PetOptions,
    section="pet",
    uses=TRAINING,
    steps_key="method.pet.pattern_steps",
)
