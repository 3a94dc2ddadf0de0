"""Scores of predictions, in percent. The metrics stand beside the kinds of targets (`peftbench.tasks.problems`).

An invalid prediction (None, or a text outside the label set) is wrong under every metric and is never turned into a
class: see each function. `peftbench.tasks.evaluate_metrics` offers the same functions as `evaluate.Metric` modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from peftbench.config.metric_files import column, is_own
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import Row, Target, TaskData
from peftbench.tasks.own_metrics import own_metric, value
from peftbench.tasks.problems import kind


def check_metrics(metrics: Sequence[str], main_metric: str, problem: str, where: str = "task") -> None:
    """Whether a task's metrics exist for its kind of target, and whether the main one is among them.

    Raises:
        UsageError: naming the key and the nearest metric.
    """
    declared = kind(problem)
    known = declared.metrics
    for name in metrics:
        if is_own(name):
            own_metric(name)
            if column(name) in known:
                raise UsageError(f"{where}.metrics: `{column(name)}` is a metric of ours. Give yours another name.")
        elif name not in known:
            raise UsageError(f"{where}.metrics: no metric `{name}` for a {problem} task. {did_you_mean(name, known)}")
        elif (needs := getattr(known[name], "needs", None)) is not None:
            needs()
    given = dict.fromkeys((*map(column, metrics), *declared.always))
    if main_metric not in given:
        raise UsageError(
            f"{where}.main_metric={main_metric}: is not among the task's metrics. {did_you_mean(main_metric, given)}"
        )


def score(
    data: TaskData, rows: Sequence[Row], predicted: Sequence[Target | None], metrics: Sequence[str] | None = None
) -> dict[str, float]:
    """Every metric of a task, x100, not rounded. Of a mixture also `METRIC_PART` over the rows of each of its parts,
    and `METRIC_mean`, the mean of the main one over the parts; of a sequence `METRIC_TASK` for each of its tasks.

    Args:
        data: says which metrics, labels and score range there are.
        rows: labelled rows.
        predicted: for each row what the task's targets are, or None if invalid.
        metrics: None for the task's.

    Raises:
        UsageError: the task asks for a metric that there is not.
        ValueError, TypeError: rows and predictions do not belong together.
    """
    if len(rows) != len(predicted) or not rows:
        raise ValueError(f"{len(predicted)} predictions for {len(rows)} rows")
    answers = data.kind.answers(data, rows, predicted)
    values = {name: partial(metric, answers) for name, metric in data.kind.metrics.items()}
    own = {column(name): name for name in data.metrics if is_own(name)}
    targets = [row.target for row in rows]
    values |= {key: partial(value, name, targets, predicted, data.labels) for key, name in own.items()}
    names = dict.fromkeys((*map(column, data.metrics), *data.kind.always) if metrics is None else metrics)
    for name in names:
        if name not in values:
            raise UsageError(
                f"task `{data.name}`: no metric `{name}` for a {data.problem} task. {did_you_mean(name, values)}"
            )
    found = {name: 100 * values[name]() for name in names}
    for task, scores in score_tasks(data, rows, predicted).items():
        found |= {f"{name}_{task}": value for name, value in scores.items()}
    return found if data.mixture is None else found | _by_part(data, rows, predicted, metrics)


def _by_part(
    data: TaskData, rows: Sequence[Row], predicted: Sequence[Target | None], metrics: Sequence[str] | None
) -> dict[str, float]:
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(str(row.domain), []).append(place)
    whole = replace(data, mixture=None)
    parts = {
        part: score(whole, [rows[i] for i in own], [predicted[i] for i in own], metrics) for part, own in places.items()
    }
    found = {f"{name}_{part}": value for part, scores in parts.items() for name, value in scores.items()}
    main = [scores[data.main_metric] for scores in parts.values() if data.main_metric in scores]
    return found | ({f"{data.main_metric}_mean": sum(main) / len(main)} if main else {})


def score_tasks(data: TaskData, rows: Sequence[Row], predicted: Sequence[Target | None]) -> dict[str, dict[str, float]]:
    """Of a sequence: task -> its metrics on its own rows, as `score` gives them, in the order of the tasks; a task
    without rows is left out."""
    own: dict[str, list[int]] = {name: [] for name in data.tasks}
    for place, row in enumerate(rows if data.tasks else ()):
        own[str(row.domain)].append(place)
    return {
        name: score(data.tasks[name], [rows[i] for i in places], [predicted[i] for i in places])
        for name, places in own.items()
        if places
    }
