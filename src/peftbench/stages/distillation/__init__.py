"""The `distillation` stage: a classifier learns what an ensemble says about unlabelled rows, and nothing else."""

from __future__ import annotations

from peftbench.config.components import TRAINING
from peftbench.stages.base import Stage
from peftbench.stages.ensemble import PetOptions

STAGE = Stage(
    run="peftbench.stages.distillation.pupil:distillation",
    check="peftbench.stages.distillation.pupil:check_run",
    options=PetOptions,
    section="pet",
    uses=TRAINING,
    steps_key="method.pet.classifier_steps",
)
