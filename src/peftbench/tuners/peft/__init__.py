"""The tuner `peft` declared: its options, and where it is."""

from __future__ import annotations

from collections.abc import Mapping
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


MOVES_WEIGHTS = {"pissa", "olora", "corda", "lora_ga"}
"""LoRA initialisations that move a part of the frozen matrix into the adapter: with the adapter switched off, the rest
of the matrix is left and not the base model."""


def moves_weights(options: Mapping[str, Any]) -> bool:
    """Whether peft's options ask for such an initialisation."""
    return str(options.get("init_lora_weights")).split("_niter")[0] in MOVES_WEIGHTS


TUNER = TunerDeclaration(
    "peftbench.tuners.peft.tuner:PeftTypeTuner",
    options=PeftTypeOptions,
    replaces_words=lambda options: options.type == "TRAINABLE_TOKENS",
    stays_on=lambda options: moves_weights(options.options),
)
