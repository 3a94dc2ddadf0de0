"""The `ensemble` stage: a cloze model a pattern and repetition (PET, iPET). Its options are `distillation`'s too."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.components import TRAINING
from peftbench.config.schema import number, one_of, packaged
from peftbench.stages.base import Stage


@packaged("method/pet", "pet")
@dataclass
class PetOptions:
    """`method.pet`, of `ensemble` and `distillation`: models of several patterns that teach a classifier."""

    patterns: list[int] | None = number(ge=0)
    repetitions: int = number(ge=1)
    unlabeled: int | None = number(ge=1)
    schedule: str = one_of("steps", "masakhanews", "paper_250_5000")
    pattern_steps: int = number(ge=1)
    classifier_steps: int = number(ge=1)
    reduction: str = one_of("wmean", "mean")
    temperature: float = number(gt=0)
    generations: int = number(ge=1)
    growth: float = number(gt=1)
    share: float = number(gt=0, le=1)
    likely: int = number(ge=0)


STAGE = Stage(
    run="peftbench.stages.ensemble.members:ensemble",
    check="peftbench.stages.ensemble.members:check_run",
    options=PetOptions,
    section="pet",
    uses=TRAINING,
    steps_key="method.pet.pattern_steps",
)
