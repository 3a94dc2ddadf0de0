"""The `supervised` stage: gradient steps on the drawn labelled rows, with the method's tricks, if it has any."""

from __future__ import annotations

from peftbench.config.components import TRAINING
from peftbench.stages import tricks
from peftbench.stages.base import Stage

STAGE = Stage(
    run="peftbench.stages.supervised.training:supervised",
    uses=TRAINING,
    fits=tricks.fits,
    check=tricks.check_run,
    takes_tricks=True,
    one_training=True,
    sequential=True,
)
