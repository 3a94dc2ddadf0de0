"""All weights of the backbone are trained."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/full")
@dataclass
class FullOptions(TunerConfig):
    """All weights of the backbone are trained."""


TUNER = TunerDeclaration("peftbench.tuners.plain:FullTuner", options=FullOptions, trains_weights=True)
