"""The tuner `prompt_tuning` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.prompt_starts import PROMPT_STARTS


@packaged("method/tuner/prompt_tuning")
@dataclass
class PromptTuningOptions(TunerConfig):
    """Soft prompt in front of the embedded input (peft's PROMPT_TUNING)."""

    num_virtual_tokens: int = number(ge=1)
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING


TUNER = TunerDeclaration(
    "peftbench.tuners.prompt_tuning.tuner:PromptTuningTuner",
    options=PromptTuningOptions,
    side_by_side=lambda options: True,
)
