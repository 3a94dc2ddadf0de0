"""The tuner `peft` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, one_of, packaged
from peftbench.models.anatomy.parts import TARGETS
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.layerwise import layer_range


@packaged("method/tuner/peft")
@dataclass
class PeftTypeOptions(TunerConfig):
    """Any adapter of the installed peft: the name of its type, and options of peft's own config class."""

    type: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    target: str | None = one_of(*TARGETS, default=None)
    layers: str = layer_range()


TUNER = TunerDeclaration(
    "peftbench.tuners.peft.tuner:PeftTypeTuner",
    options=PeftTypeOptions,
    replaces_words=lambda options: options.type == "TRAINABLE_TOKENS",
)
