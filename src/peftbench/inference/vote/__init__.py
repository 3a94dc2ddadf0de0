"""The inference `vote`: several paths to an answer, with or without evidence that is written first. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftbench.config.components import choices
from peftbench.config.schema import InferenceConfig, number, numbers, one_of, packaged
from peftbench.errors import UsageError
from peftbench.formulations.prompts import prompt_set
from peftbench.inference.base import SCORE, Declared, answers_by
from peftbench.tasks.problems import kind

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

NONE, WORDNET = "none", "wordnet"
ANSWERS = "answers"
"""The kind of targets whose paths are rankings."""


@packaged("method/inference/vote")
@dataclass
class VoteConfig(InferenceConfig):
    """`conf/method/inference/vote.yaml`."""

    samples: int = number(ge=1)
    prompts: list[int] = numbers(ge=0)
    temperature: float = number(gt=0)
    top_p: float = number(gt=0, le=1)
    seed: int = number(ge=0)
    evidence: str = one_of(NONE, "knowledge", "chain")
    evidence_tokens: int = number(ge=1)
    cluster: str = one_of(NONE, WORDNET, "embedding")
    threshold: float = number(ge=0, le=1)


def fits(cfg: VoteConfig, run: RunConfig) -> None:
    """Raises UsageError if the paths would all be one, or cannot be made one answer."""
    problem, formulation = choices(run).problem, run.method.formulation
    if kind(problem).pool is None:
        raise UsageError(f"method/inference=vote: several {problem} answers do not make one. Use plain.")
    if getattr(formulation, "samples", 1) > 1:
        raise UsageError("method/inference=vote: samples by itself. Set method.formulation.samples=1.")
    if cfg.prompts:
        _fit_prompts(cfg, run)
    if answers_by(run) == SCORE and cfg.samples > 1 and cfg.evidence == NONE:
        raise UsageError(
            f"method.inference.samples={cfg.samples}: the likeliest label is the same each time. Give "
            "method.inference.evidence=knowledge, or samples=1 and several prompts, or let answers be written: "
            "method.formulation.by=generate or method/formulation=generate."
        )
    if cfg.cluster != NONE and problem != ANSWERS:
        raise UsageError(f"method.inference.cluster={cfg.cluster}: is for rankings; {problem} answers are as they are.")


def _fit_prompts(cfg: VoteConfig, run: RunConfig) -> None:
    formulation: Any = run.method.formulation
    key = f"method.inference.prompts={cfg.prompts}"
    if not hasattr(formulation, "prompt_number"):
        raise UsageError(f"{key}: are numbers of written prompts. Use method/formulation=prompted, or prompts=[].")
    there = len(prompt_set(formulation.prompts).prompts)
    if max(cfg.prompts) >= there:
        raise UsageError(f"{key}: method.formulation.prompts={formulation.prompts} has {there} prompts, from 0 on.")
    if getattr(formulation, "calibration", NONE) == "prior":
        raise UsageError(f"{key}: each prompt has a prior of its own. Use method.formulation.calibration=contextual.")


def settle(cfg: VoteConfig) -> None:
    """Raises UsageError if WordNet is wanted and not there."""
    if cfg.cluster == WORDNET:
        from peftbench.tasks.wordnet import matcher

        matcher()


INFERENCE = Declared(
    "peftbench.inference.vote.voting:Vote",
    options=VoteConfig,
    neutral=lambda cfg: cfg.samples == 1 and not cfg.prompts and cfg.evidence == NONE,
    fits=fits,
    settle=settle,
)
