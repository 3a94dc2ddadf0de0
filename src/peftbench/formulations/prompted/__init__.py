"""`prompted`: the row in a written prompt, behind demonstrations or none; the answer is scored or generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from peftbench.config.schema import number, one_of, packaged
from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations.declared import PROBLEMS, Declared, fingerprint
from peftbench.formulations.generate import GenerateConfig
from peftbench.formulations.generate import settle as check_installed
from peftbench.formulations.prompts import is_written_out, packaged_sets, prompt_set
from peftbench.formulations.score import ScoreConfig, fingerprint_candidates
from peftbench.tasks.problems import kind


@packaged("method/formulation/prompted")
@dataclass
class PromptedConfig(ScoreConfig, GenerateConfig):
    """`conf/method/formulation/prompted.yaml`."""

    by: str = one_of("score", "generate")
    prompts: str = MISSING
    prompts_sha256: str | None = MISSING
    """Fingerprint of the file that `prompts` names, set when the config is composed."""
    prompt_number: int = number(ge=0)
    k: Any = MISSING
    select: str = one_of("random", "bm25", "semantic", "hybrid")
    encoder: str = MISSING
    balance: bool = MISSING
    order: str = one_of("nearest_last", "nearest_first", "random")
    budget: int | None = number(ge=0)
    max_length: int | None = number(ge=16)

    def second_model(self) -> str | None:
        return self.encoder if self.k and self.select in ("semantic", "hybrid") else None


def variant(cfg: PromptedConfig, family: str, problem: str) -> str:
    """Scored or generated answers; what is no label cannot be scored."""
    by = {"score": "Score", "text": "Generate"}[draws(cfg, problem)]
    return f"peftbench.formulations.prompted.formulation:Prompted{by}"


def draws(cfg: PromptedConfig, problem: str) -> str:
    """Whether labels are scored, or answers written."""
    return "score" if cfg.by == "score" and kind(problem).parse is None else "text"


def settle(cfg: PromptedConfig) -> None:
    """Look at the prompts, and put hashes of the user's files into the options.

    Raises:
        UsageError: there are no such prompts, they are no prompts or not those that the run began with, or `k` is no
            count.
    """
    check_installed(cfg)
    fingerprint_candidates(cfg)
    if cfg.k != "full" and (isinstance(cfg.k, bool) or not isinstance(cfg.k, int) or cfg.k < 0):
        raise UsageError(f"method.formulation.k={cfg.k}: how many demonstrations: 0, 1, 2 ..., or full.")
    prompt_set(cfg.prompts)
    if cfg.prompts in packaged_sets() or is_written_out(cfg.prompts):
        return
    fingerprint(cfg, "prompts", f"neither a file nor a set of prompts. {did_you_mean(cfg.prompts, packaged_sets())}")


FORMULATION = Declared(
    variant,
    frozenset({"seq2seq", "causal"}),
    options=PromptedConfig,
    uses=("task.label_words",),
    problems=PROBLEMS | {"tuples", "answers", "text", "code"},
    can_answer_untrained=True,
    writes=lambda options: options.by == "generate",
    settle=settle,
    draws=draws,
)
