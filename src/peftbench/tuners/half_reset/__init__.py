"""The tuner `half_reset` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/half_reset")
@dataclass
class HalfResetOptions(TunerConfig):
    """Full fine-tuning, after which a random half of the matrices goes back to what it was."""

    reset_ratio: float = number(ge=0, le=1)
    level: str = one_of("category", "layer", "model")
    to: str = one_of("round", "pretrained")
    mask_seed: int | None = number(ge=0)


TUNER = TunerDeclaration(
    "peftbench.tuners.half_reset.tuner:HalfResetTuner", options=HalfResetOptions, trains_weights=True
)
