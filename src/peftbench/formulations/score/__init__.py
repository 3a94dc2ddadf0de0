"""`score`: every label string is ranked by its log-likelihood given the input."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import FormulationConfig, number, one_of, packaged
from peftbench.formulations.declared import Declared, fingerprint

TERMS = "terms"
"""What `method.formulation.candidates` may be besides a file: the task's retrieved terms."""


@packaged("method/formulation/score")
@dataclass
class ScoreConfig(FormulationConfig):
    """`conf/method/formulation/score.yaml`."""

    likelihood: str = one_of("mean", "sum", "byte", default="mean")
    candidates: str | None = None
    candidates_sha256: str | None = None
    """Fingerprint of the file that `candidates` names, set when the config is composed."""
    calibration: str = one_of("none", "contextual", "prior", default="none")
    prior_rows: int | None = number(None, ge=1)


def fingerprint_candidates(cfg: ScoreConfig) -> None:
    """Put the absolute path and the SHA-256 of a user's file of candidates into the options.

    Raises:
        UsageError: there is no such file, or it is not the one that the run began with.
    """
    if cfg.candidates in (None, TERMS):
        return
    what = f"neither a file nor `{TERMS}`. The file has a line `label: [answer, ...]` for every label."
    fingerprint(cfg, "candidates", what)


FORMULATION = Declared(
    "peftbench.formulations.score.formulation:ScoreFormulation",
    frozenset({"seq2seq", "causal"}),
    options=ScoreConfig,
    uses=("task.label_words",),
    results_version=2,  # the longest field gives way
    problems=frozenset({"classification"}),
    can_answer_untrained=True,
    settle=fingerprint_candidates,
    draws="score",
)
