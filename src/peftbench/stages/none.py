"""The `none` stage: the learner as it is."""

from __future__ import annotations

from peftbench.stages.base import Stage

STAGE = Stage(run="peftbench.stages.learning:untrained", trains=False)
