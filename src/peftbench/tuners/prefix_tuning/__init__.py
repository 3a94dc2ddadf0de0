"""The tuner `prefix_tuning` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/prefix_tuning")
@dataclass
class PrefixTuningOptions(TunerConfig):
    """Trained keys and values in front of every layer's (peft's PREFIX_TUNING)."""

    num_virtual_tokens: int = number(ge=1)
    projection: bool = MISSING
    projection_hidden: int = number(ge=1)
    init: str = one_of("vocab", "text", "labels", "random")
    init_text: str = MISSING


TUNER = TunerDeclaration("peftbench.tuners.prefix_tuning.tuner:PrefixTuningTuner", options=PrefixTuningOptions)
