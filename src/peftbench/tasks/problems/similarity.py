"""`similarity`: whether two texts belong together, 1 or 0; the answer is a score, greater for what is more alike.

A row's `group` is its query, where the rows of one query are what is ranked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import BatchMetric, GroupMetric, Problem
from peftbench.tasks.problems.regression import as_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peftbench.tasks.base import Row, TaskData
    from peftbench.tasks.problems.base import Answers, Sums

SHOWN = 10
"""Results of a query that count."""


def f1_max(truth: Sums, guess: Sums) -> Sums:
    """The best F1 of "belongs together" over all thresholds of the score, which is chosen on these very rows: 2/3 for
    scores that say nothing about balanced rows. [samples, rows] -> [samples]"""
    import numpy as np

    order = np.argsort(-guess, axis=1, kind="stable")
    truth, guess = np.take_along_axis(truth, order, 1), np.take_along_axis(guess, order, 1)
    answered = np.arange(1, truth.shape[1] + 1)
    values = 2 * truth.cumsum(1) / (answered + truth.sum(1, keepdims=True))
    last_of_equals = np.ones_like(values, dtype=bool)
    last_of_equals[:, :-1] = guess[:, 1:] < guess[:, :-1]
    return np.where(last_of_equals, values, 0).max(1)


def roc_auc(truth: Sums, guess: Sums) -> Sums:
    """The chance that a pair of the kind 1 scores above one of the kind 0, equal scores counting half; 0.5 where one
    kind is missing. [samples, rows] -> [samples]"""
    import numpy as np
    from scipy.stats import rankdata

    ones = truth.sum(1)
    zeros = truth.shape[1] - ones
    above = (rankdata(guess, axis=1) * truth).sum(1) - ones * (ones + 1) / 2
    return np.where(ones * zeros > 0, above / np.maximum(ones * zeros, 1), 0.5)


def cosine_ratio(truth: Sums, guess: Sums) -> Sums:
    """Mean score of the pairs of kind 1, as a share of that of kind 0. [samples, rows] -> [samples]"""
    import numpy as np

    ones = truth.sum(1)
    means = [(guess * kind).sum(1) / np.maximum(count, 1)
             for kind, count in ((truth, ones), (1 - truth, truth.shape[1] - ones))]  # fmt: skip
    return np.where(means[1] != 0, means[0] / np.where(means[1] != 0, means[1], 1), 0.0)


def recall_at_10(truth: Sums, guess: Sums) -> float:
    """Share of a query's right results among its first ten. Both [results]; equal scores in the order of the rows."""
    import numpy as np

    first = np.argsort(-guess, kind="stable")[:SHOWN]
    return float(truth[first].sum() / max(truth.sum(), 1))


def ndcg_at_10(truth: Sums, guess: Sums) -> float:
    """Discounted gain of a query's first ten results, as a share of the best there could be (Jarvelin and Kekalainen,
    2002). Both [results]."""
    import numpy as np

    discounts = 1 / np.log2(np.arange(2, SHOWN + 2))
    first = np.argsort(-guess, kind="stable")[:SHOWN]
    best = discounts[: int(min(truth.sum(), SHOWN))].sum()
    return float((truth[first] * discounts[: len(first)]).sum() / best) if best else 0.0


def with_queries(data: TaskData, rows: Sequence[Row], predicted: Sequence[Any]) -> Answers:
    """Scores with the query of each row; an invalid score is the wrong end of 0 to 1."""
    from dataclasses import replace

    return replace(as_scores(data, rows, predicted), groups=[row.group for row in rows])


PROBLEM = Problem(
    "similarity",
    metrics={
        "f1_max": BatchMetric(f1_max),
        "roc_auc": BatchMetric(roc_auc),
        "cosine_ratio": BatchMetric(cosine_ratio),
        "recall_at_10": GroupMetric(recall_at_10),
        "ndcg_at_10": GroupMetric(ndcg_at_10),
    },
    usual=("roc_auc", "f1_max", "cosine_ratio"),
    answers=with_queries,
    strata="half",
    mark="similarity",
    modules=("scipy.stats",),
)
