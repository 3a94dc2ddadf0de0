"""The tuner `dept` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration
from peftbench.tuners.prompt_starts import PROMPT_STARTS


@packaged("method/tuner/dept")
@dataclass
class DeptOptions(TunerConfig):
    """Decomposed prompt tuning: a short soft prompt and a low-rank offset of the input embeddings."""

    num_virtual_tokens: int = number(ge=0)
    rank: int | None = number(ge=0)
    budget_tokens: int | None = number(ge=1)
    alpha: float = number(ge=0)
    offset: str = one_of("position", "token")
    token_dropout: float = number(ge=0, le=0.9)
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING

    def is_bound_to_length(self) -> bool:
        return self.offset == "position" and self.rank != 0


TUNER = TunerDeclaration(
    "peftbench.tuners.dept.tuner:DeptTuner",
    options=DeptOptions,
    side_by_side=lambda options: options.offset == "position" or not options.token_dropout,
)
