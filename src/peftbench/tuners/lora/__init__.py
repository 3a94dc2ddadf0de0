"""The tuner `lora` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.models.anatomy.parts import TARGETS
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.layerwise import layer_range


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
    target: str | None = one_of(*TARGETS, default=None)
    layers: str = layer_range()


TUNER = TunerDeclaration(
    "peftbench.tuners.lora.tuner:LoraTuner",
    options=LoraOptions,
    side_by_side=lambda options: not (options.dropout or options.dora),
)
