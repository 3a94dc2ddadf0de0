"""The tuner `peft` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/peft")
@dataclass
class PeftTypeOptions(TunerConfig):
    """Any adapter of the installed peft: the name of its type, and options of peft's own config class."""

    type: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)


TUNER = TunerDeclaration("peftbench.tuners.peft.tuner:PeftTypeTuner", options=PeftTypeOptions)
