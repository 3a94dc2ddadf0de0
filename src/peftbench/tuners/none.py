"""For methods without a backbone."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/none")
@dataclass
class NoneOptions(TunerConfig):
    """For methods without a backbone."""


TUNER = TunerDeclaration("peftbench.tuners.plain:FrozenTuner", options=NoneOptions)
