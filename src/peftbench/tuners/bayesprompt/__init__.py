"""The tuner `bayesprompt` declared: its options, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/bayesprompt")
@dataclass
class BayesPromptOptions(TunerConfig):
    """A soft prompt that starts from, and may be held to, vectors typical of the task's texts."""

    num_virtual_tokens: int = number(ge=1)
    init: str = one_of("bayesprompt", "bayesprompt_shots")
    pull: float = number(ge=0)
    overwrite: bool = MISSING


TUNER = TunerDeclaration("peftbench.tuners.bayesprompt.tuner:BayesPromptTuner", options=BayesPromptOptions)
