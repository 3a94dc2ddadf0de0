"""The tuner `iapt` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/iapt")
@dataclass
class IaptOptions(TunerConfig):
    """Soft tokens in front of every block, made from the instruction by a small network."""

    num_tokens: int = number(ge=1)
    bottleneck: int = number(ge=1)
    share_group: int = number(ge=1)


TUNER = TunerDeclaration("peftbench.tuners.iapt.tuner:IaptTuner", options=IaptOptions)
