"""The tuner `ept` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.prompt_starts import PROMPT_STARTS


@packaged("method/tuner/ept")
@dataclass
class EptOptions(TunerConfig):
    """DePT whose short prompt is rebuilt by fusion and multi-space projection (our reading of the paper)."""

    num_virtual_tokens: int = number(ge=1)
    rank: int = number(ge=0)
    alpha: float = number(ge=0)
    offset_init: str = one_of("dept", "svd")
    fusion: bool = MISSING
    fusion_proj: str = one_of("none", "linear")
    fusion_hidden: int = number(ge=1)
    spaces: int = number(ge=0)
    bottleneck: int = number(ge=1)
    gate: str = one_of("prompt_mean", "per_token")
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING

    def is_bound_to_length(self) -> bool:
        return self.rank != 0


TUNER = TunerDeclaration("peftbench.tuners.ept.tuner:EptTuner", options=EptOptions)
