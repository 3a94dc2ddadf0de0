"""One question in several wordings: how good the answers are on the whole, how much they differ, and the worst."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from peftbench.formulations.predictions import Prediction
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.metrics import score


class Asked(NamedTuple):
    """The answers to test rows in one wording; `observed`: whether it may have been trained on."""

    name: str
    observed: bool
    predictions: Sequence[Prediction]


def wording_facts(task: TaskData, rows: Sequence[Row], every: Sequence[Asked]) -> list[dict[str, Any]]:
    """Of each wording, the reference first: `name`, `observed`, `score` (main metric, in percent) and `kl`, the mean
    over the rows of KL(reference || wording) over the labels, in nats."""
    reference = _log_shares(every[0].predictions) if every else None
    return [
        {
            "name": asked.name,
            "observed": asked.observed,
            "score": score(task, rows, [p.label for p in asked.predictions])[task.main_metric],
            "kl": _divergence(reference, _log_shares(asked.predictions)),
        }
        for asked in every
    ]


def summary(facts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`observed_mean`, `observed_spread` (standard deviation over these very wordings), `observed_worst`, and the same
    of the others as `unobserved_`; in percent. A kind of which there is no wording is left out."""
    found = {}
    for kind, observed in (("observed", True), ("unobserved", False)):
        if scores := [one["score"] for one in facts if one["observed"] is observed]:
            found[f"{kind}_mean"] = statistics.fmean(scores)
            found[f"{kind}_spread"] = statistics.pstdev(scores)
            found[f"{kind}_worst"] = min(scores)
    return found


def _log_shares(predictions: Sequence[Prediction]) -> np.ndarray:
    """(rows, labels)"""
    from scipy.special import log_softmax

    scores = np.array([list(p.scores.values()) for p in predictions], dtype=np.float64)
    return np.asarray(log_softmax(scores, axis=1)) if scores.size else scores


def _divergence(p: np.ndarray | None, q: np.ndarray) -> float | None:
    if p is None or not p.size:
        return None
    return float((np.exp(p) * (p - q)).sum(1).mean())
