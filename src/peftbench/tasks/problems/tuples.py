"""`tuples`: a set of tuples of texts a row, as ABSA's extraction subtasks ask for."""

from __future__ import annotations

from typing import Any

from peftbench.tasks.problems.base import Problem, SumMetric, ratio


def counts(target: Any, prediction: Any) -> tuple[int, int]:
    """Twice the tuples that match exactly in every element, and all that were asked for or given; each once a row. An
    invalid prediction gives none."""
    truth, guess = _set(target), _set(prediction)
    return 2 * len(truth & guess), len(truth) + len(guess)


def _set(tuples: Any) -> set[tuple]:
    return {tuple(t) for t in tuples or ()}


def show(value: Any) -> str:
    """`(battery, good); (screen, bad)`."""
    return "; ".join(f"({', '.join(map(str, t))})" for t in value) or "(none)"


PROBLEM = Problem(
    "tuples", metrics={"f1_tuples": SumMetric(counts, ratio)}, usual=("f1_tuples",), mark="elements", show=show
)
