"""The `supervised` stage: gradient steps on the drawn labelled rows."""

from __future__ import annotations

from peftbench.config.components import TRAINING
from peftbench.stages.base import Stage

STAGE = Stage(run="peftbench.stages.learning:supervised", uses=TRAINING, one_training=True)
