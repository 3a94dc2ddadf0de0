"""The tuner `moe` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/moe")
@dataclass
class MoeOptions(TunerConfig):
    """An expert feed-forward for each domain, chosen by the text's domain."""

    expert: str = one_of("full", "lora")
    rank: int = number(ge=1)
    alpha: float = number(gt=0)


TUNER = TunerDeclaration("peftbench.tuners.moe.tuner:MoeTuner", options=MoeOptions, trains_weights=True)
