"""The tuner `p_tuning` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.prompt_starts import PROMPT_STARTS


@packaged("method/tuner/p_tuning")
@dataclass
class PTuningOptions(TunerConfig):
    """P-tuning v1: a soft prompt that comes out of a small encoder (peft's P_TUNING)."""

    num_virtual_tokens: int = number(ge=1)
    encoder: str = one_of("MLP", "LSTM")
    hidden: int | None = number(ge=1)
    layers: int = number(ge=1)
    dropout: float = number(ge=0, le=0.9)
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING

    def hidden_at(self, width: int) -> int:
        """h: as configured, or half of the backbone's width, which the LSTM's two directions then have together."""
        return self.hidden or width // 2


TUNER = TunerDeclaration("peftbench.tuners.p_tuning.tuner:PTuningTuner", options=PTuningOptions)
