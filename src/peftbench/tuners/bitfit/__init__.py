"""The tuner `bitfit` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/bitfit")
@dataclass
class BitfitOptions(TunerConfig):
    """Only biases are trained."""

    biases: str = one_of("all", "query_mlp")
    add_missing: bool = MISSING


TUNER = TunerDeclaration(
    "peftbench.tuners.bitfit.tuner:BitfitTuner",
    options=BitfitOptions,
    trains_weights=True,
    side_by_side=lambda options: not options.add_missing,
)
