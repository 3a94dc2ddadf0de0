"""The tuner `madx` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/madx")
@dataclass
class MadxOptions(TunerConfig):
    """A task adapter that stands on the adapter of a language."""

    reduction_factor: float = number(ge=1)
    bottleneck: int | None = number(ge=1)
    language_reduction: float = number(ge=1)
    invertible: bool = MISSING
    invertible_reduction: int = number(ge=1)
    activation: str = one_of("relu", "gelu", "silu")
    drop_last: bool = MISSING

    def task_width(self, width: int) -> int:
        """Of the task adapter's bottleneck, at a network's `width`."""
        return self.bottleneck or max(1, round(width / self.reduction_factor))

    def language_width(self, width: int) -> int:
        """Of a language adapter's bottleneck."""
        return max(1, round(width / self.language_reduction))


TUNER = TunerDeclaration("peftbench.tuners.madx.tuner:MadxTuner", options=MadxOptions)
