"""Metrics of the user's own: a function in a file or module, or an `evaluate.Metric` class."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from peftbench.config import registry
from peftbench.config.metric_files import column
from peftbench.errors import UsageError


def own_metric(metric: str) -> Any:
    """The function or class that a metric of one's own names.

    Raises:
        UsageError: it cannot be imported, or has nothing of that name that can be called.
    """
    return registry.get("metric", metric.partition("#")[0])


def value(metric: str, references: Sequence[Any], predictions: Sequence[Any], labels: Sequence[str]) -> float:
    """What the metric gives, as a fraction.

    A function gets the label names (or scores) of the rows and of the answers, None for an invalid one. A class of
    `evaluate` gets ids, -1 for an invalid answer; of its results the one of the metric's name counts, or the first.

    Raises:
        UsageError: it fails, or gives no finite number.
    """
    made: Any = own_metric(metric)
    try:
        if inspect.isclass(made):
            ids = {label: i for i, label in enumerate(labels)}
            both = [
                [ids.get(v, -1) for v in values] if labels else list(values) for values in (predictions, references)
            ]
            module: Any = made()
            results = module.compute(predictions=both[0], references=both[1])
            result = results.get(column(metric), next(iter(results.values())))
        else:
            result = made(list(references), list(predictions))
        number = float(result)
    except Exception as error:  # the user's code
        raise UsageError(f"task.metrics: {column(metric)}: {type(error).__name__}: {error}") from error
    if not math.isfinite(number):
        raise UsageError(f"task.metrics: {column(metric)}: gives {number}, where a finite number is expected.")
    return number
