"""The tuner `adalora` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.models.anatomy.parts import TARGETS
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.layerwise import layer_range


@packaged("method/tuner/adalora")
@dataclass
class AdaLoraOptions(TunerConfig):
    """LoRA whose ranks move to the matrices that need them (peft's ADALORA)."""

    init_rank: int = number(ge=2)
    target_rank: int = number(ge=1)
    alpha: float = number(gt=0)
    dropout: float = number(ge=0, le=0.9)
    target_modules: list[str] | None = MISSING
    warmup: float = number(ge=0, le=1)
    final: float = number(ge=0, le=1)
    every: int = number(ge=1)
    beta1: float = number(gt=0, le=0.999)
    beta2: float = number(gt=0, le=0.999)
    orthogonality: float = number(ge=0)
    target: str | None = one_of(*TARGETS, default=None)
    layers: str = layer_range()


TUNER = TunerDeclaration("peftbench.tuners.adalora.tuner:AdaLoraTuner", options=AdaLoraOptions)
