"""The `replay` stage: `supervised` on a task of a sequence, with some rows of the tasks before it. On a single task
there are none, and it is `supervised`."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.components import TRAINING
from peftbench.config.schema import number, packaged
from peftbench.stages.base import Stage


@packaged("method/replay", "replay")
@dataclass
class ReplayOptions:
    """`method.replay`: what is kept of earlier tasks."""

    memory: float = number(gt=0, le=1)


STAGE = Stage(
    run="peftbench.stages.replay.memory:replay",
    options=ReplayOptions,
    section="replay",
    uses=TRAINING,
    one_training=True,
    sequential=True,
)
