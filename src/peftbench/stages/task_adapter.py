"""The `task_adapter` stage: `supervised`, and then the target's language adapter in the place of the source's."""

from __future__ import annotations

from peftbench.config.components import TRAINING
from peftbench.stages.base import Stage

STAGE = Stage(
    run="peftbench.stages.language_adapters.training:task_adapter",
    uses=TRAINING,
    several_processes=False,
    one_training=True,
)
