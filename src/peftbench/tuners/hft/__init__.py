"""The tuner `hft` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/hft")
@dataclass
class HftOptions(TunerConfig):
    """Half fine-tuning: a random half of the matrices is frozen for a round."""

    freeze_ratio: float = number(ge=0, le=1)
    level: str = one_of("category", "layer", "model")
    resample: str = one_of("round", "never")
    round: int = number(ge=0)
    mask_seed: int | None = number(ge=0)


TUNER = TunerDeclaration("peftbench.tuners.hft.tuner:HftTuner", options=HftOptions, trains_weights=True)
