"""The backbone stays frozen; only the formulation's head is trained."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/head_only")
@dataclass
class HeadOnlyOptions(TunerConfig):
    """The backbone stays frozen; only the formulation's head is trained."""


TUNER = TunerDeclaration(
    "peftbench.tuners.plain:FrozenTuner", options=HeadOnlyOptions, side_by_side=lambda options: True
)
