"""The tuner `child_tuning` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/child_tuning")
@dataclass
class ChildTuningOptions(TunerConfig):
    """All weights are there to be trained, and gradients outside a child network are masked."""

    variant: str = one_of("D", "F")
    reserve: float = number(gt=0, le=1)


TUNER = TunerDeclaration(
    "peftbench.tuners.child_tuning.tuner:ChildTuningTuner", options=ChildTuningOptions, trains_weights=True
)
