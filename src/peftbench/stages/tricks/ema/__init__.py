"""The trick `ema`: what is evaluated and kept is a running mean of the trained weights. Declaration."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TrickConfig, number, packaged
from peftbench.stages.tricks.base import Trick


@packaged("method/trick/ema", "ema")
@dataclass
class EmaOptions(TrickConfig):
    """`method.trick.ema`."""

    decay: float = number(ge=0, le=1)


TRICK = Trick(
    EmaOptions, steps="peftbench.stages.tricks.ema.average:Average", neutral=lambda options: options.decay == 0
)
