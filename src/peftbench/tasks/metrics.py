"""Scores of predictions, in percent.

An invalid prediction (None, or a text outside the label set) is wrong under every metric and is never turned into a
class: see each function. `peftbench.tasks.evaluate_metrics` offers the same functions as `evaluate.Metric` modules.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from peftbench.config.components import Problem
from peftbench.config.metric_files import column, is_own
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.own_metrics import own_metric, value

INVALID = -1
"""The class id of an invalid prediction."""
ALWAYS = ("f1_macro", "f1_weighted", "accuracy")
"""Given for every classification task, whatever its own metrics are: the leaderboard has these columns."""

Prediction = str | float | tuple | None


def check_metrics(metrics: Sequence[str], main_metric: str, problem: Problem, where: str = "task") -> None:
    """Whether a task's metrics exist for its kind of target, and whether the main one is among them.

    Raises:
        UsageError: naming the key and the nearest metric.
    """
    known = BY_PROBLEM[problem]
    for name in metrics:
        if is_own(name):
            own_metric(name)
            if column(name) in known:
                raise UsageError(f"{where}.metrics: `{column(name)}` is a metric of ours. Give yours another name.")
        elif name not in known:
            raise UsageError(f"{where}.metrics: no metric `{name}` for a {problem} task. {did_you_mean(name, known)}")
    given = dict.fromkeys((*map(column, metrics), *(ALWAYS if problem == "classification" else ())))
    if main_metric not in given:
        raise UsageError(
            f"{where}.main_metric={main_metric}: is not among the task's metrics. {did_you_mean(main_metric, given)}"
        )


def score(data: TaskData, rows: Sequence[Row], predicted: Sequence[Prediction]) -> dict[str, float]:
    """Every metric of a task, x100, not rounded.

    Args:
        data: says which metrics, labels and score range there are.
        rows: labelled rows.
        predicted: for each row a label name, a score, a tuple of tuples (as the task's targets), or None if invalid.

    Raises:
        UsageError: the task asks for a metric that there is not.
        ValueError, TypeError: rows and predictions do not belong together.
    """
    if len(rows) != len(predicted) or not rows:
        raise ValueError(f"{len(predicted)} predictions for {len(rows)} rows")
    answers = _ANSWERS[data.problem](data, rows, predicted)
    values = {name: partial(metric, answers) for name, metric in BY_PROBLEM[data.problem].items()}
    own = {column(name): name for name in data.metrics if is_own(name)}
    targets = [row.target for row in rows]
    values |= {key: partial(value, name, targets, predicted, data.labels) for key, name in own.items()}
    names = dict.fromkeys((*map(column, data.metrics), *(ALWAYS if data.problem == "classification" else ())))
    for name in names:
        if name not in values:
            raise UsageError(
                f"task `{data.name}`: no metric `{name}` for a {data.problem} task. {did_you_mean(name, values)}"
            )
    return {name: 100 * values[name]() for name in names}


def accuracy(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Share of rows that are right."""
    return sum(r == p for r, p in zip(references, predictions, strict=True)) / len(references)


def f1_macro(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Unweighted mean of the F1 of each class that occurs among references or predictions.

    A class that is only predicted counts with F1 = 0; an invalid prediction is a miss of its row's class.
    """
    return _f1(references, predictions, "macro")


def f1_weighted(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Mean of the F1 of each class, weighted by its number of references; invalid predictions as in `f1_macro`."""
    return _f1(references, predictions, "weighted")


def f1_binary(references: Sequence[int], predictions: Sequence[int], positive: int = 1) -> float:
    """F1 of one class of two. An invalid prediction counts as the wrong one of the two ("F1 with invalid" of T5)."""
    from sklearn.metrics import f1_score

    truth = [r == positive for r in references]
    guess = [not t if p == INVALID else p == positive for t, p in zip(truth, predictions, strict=True)]
    return float(f1_score(truth, guess, zero_division=0.0))


def mcc(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Matthews correlation (Gorodkin's R_K beyond two classes); invalid predictions are a class that is never right."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where there is one class only; the result is 0
        return float(matthews_corrcoef(list(references), list(predictions)))


def exact_match_group(
    references: Sequence[int], predictions: Sequence[int], groups: Sequence[Hashable | None]
) -> float:
    """Share of groups (MultiRC: questions) whose rows are all right; a row without a group is one by itself."""
    right: dict[Hashable, bool] = {}
    for i, (r, p, group) in enumerate(zip(references, predictions, groups, strict=True)):
        key = ("row", i) if group is None else ("group", group)
        right[key] = right.get(key, True) and r == p
    return sum(right.values()) / len(right)


def pearson(references: Sequence[float], predictions: Sequence[float]) -> float:
    """Pearson's r; 0 where it is undefined (a constant, fewer than two rows)."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, references, predictions)


def spearman(references: Sequence[float], predictions: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where it is undefined."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, references, predictions)


def f1_tuples(references: Sequence[Sequence[tuple]], predictions: Sequence[Sequence[tuple]]) -> float:
    """Micro F1 of tuples that match exactly in every element, each counted once a row; 0 if there are none at all."""
    truth, guess = [set(r) for r in references], [set(p) for p in predictions]
    hits = sum(len(t & g) for t, g in zip(truth, guess, strict=True))
    found = sum(map(len, truth)) + sum(map(len, guess))
    return 2 * hits / found if found else 0.0


def worst(reference: float, low: float, high: float) -> float:
    """The end of the score range that is farther from the reference: what an invalid score counts as."""
    return low if reference - low > high - reference else high


@dataclass(frozen=True)
class Answers:
    """References and predictions in the form that the metrics of a kind of target take: class ids (-1 is an invalid
    prediction), scores or lists of tuples. `labels` and `groups` belong to classes."""

    references: Sequence[Any]
    predictions: Sequence[Any]
    labels: int = 0
    groups: Sequence[Hashable | None] = ()


def _classes(data: TaskData, rows: Sequence[Row], predicted: Sequence[Prediction]) -> Answers:
    ids = {label: i for i, label in enumerate(data.labels)}
    for answer in predicted:
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"{answer!r}: a predicted class is a label name or None")
    predictions = [INVALID if p is None else ids.get(str(p), INVALID) for p in predicted]
    return Answers([ids[str(row.target)] for row in rows], predictions, len(ids), [row.group for row in rows])


def _scores(data: TaskData, rows: Sequence[Row], predicted: Sequence[Prediction]) -> Answers:
    references = [float(row.target) for row in rows]  # type: ignore[arg-type]
    low, high = data.score_range or (min(references), max(references))
    predictions = []
    for reference, answer in zip(references, predicted, strict=True):
        if isinstance(answer, (str, tuple)):
            raise TypeError(f"{answer!r}: a predicted score is a number or None")
        valid = answer is not None and math.isfinite(answer)
        predictions.append(float(answer) if valid else worst(reference, low, high))  # type: ignore[arg-type]
    return Answers(references, predictions)


def _lists(data: TaskData, rows: Sequence[Row], predicted: Sequence[Prediction]) -> Answers:
    return Answers([row.target for row in rows], [() if answer is None else answer for answer in predicted])


_ANSWERS: dict[Problem, Callable[[TaskData, Sequence[Row], Sequence[Prediction]], Answers]] = {
    "classification": _classes,
    "regression": _scores,
    "tuples": _lists,
}
BY_PROBLEM: dict[Problem, dict[str, Callable[[Answers], float]]] = {
    "classification": {
        "accuracy": lambda a: accuracy(a.references, a.predictions),
        "f1_macro": lambda a: f1_macro(a.references, a.predictions),
        "f1_weighted": lambda a: f1_weighted(a.references, a.predictions),
        "f1_binary": lambda a: f1_binary(a.references, a.predictions, positive=a.labels - 1),
        "mcc": lambda a: mcc(a.references, a.predictions),
        "exact_match_group": lambda a: exact_match_group(a.references, a.predictions, a.groups),
    },
    "regression": {
        "pearson": lambda a: pearson(a.references, a.predictions),
        "spearman": lambda a: spearman(a.references, a.predictions),
    },
    "tuples": {"f1_tuples": lambda a: f1_tuples(a.references, a.predictions)},
}
"""Kind of target -> the built-in metrics that there are for it, by name."""


def _f1(references: Sequence[int], predictions: Sequence[int], average: str) -> float:
    from sklearn.metrics import f1_score

    present = sorted({*references, *predictions} - {INVALID})
    return float(f1_score(list(references), list(predictions), labels=present, average=average, zero_division=0.0))


def _correlation(function: Callable, references: Sequence[float], predictions: Sequence[float]) -> float:
    if len(references) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of a constant and returns nan
        value = float(function(references, predictions).statistic)
    return value if math.isfinite(value) else 0.0
