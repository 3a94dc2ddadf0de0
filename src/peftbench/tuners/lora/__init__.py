"""The tuner `lora` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/lora")
@dataclass
class LoraOptions(TunerConfig):
    """Low-rank updates of weight matrices (peft's LORA)."""

    rank: int = number(ge=1)
    alpha: float = number(gt=0)
    dropout: float = number(ge=0, le=0.9)
    target_modules: list[str] | None = MISSING
    rslora: bool = MISSING
    dora: bool = MISSING


TUNER = TunerDeclaration("peftbench.tuners.lora.tuner:LoraTuner", options=LoraOptions)
