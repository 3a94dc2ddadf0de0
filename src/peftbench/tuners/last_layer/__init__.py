"""The tuner `last_layer` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/last_layer")
@dataclass
class LastLayerOptions(TunerConfig):
    """The last block or blocks are trained."""

    layers: int = number(ge=1)


TUNER = TunerDeclaration(
    "peftbench.tuners.last_layer.tuner:LastLayerTuner", options=LastLayerOptions, trains_weights=True
)
