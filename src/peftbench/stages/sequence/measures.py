"""What an accuracy matrix says of a sequence of tasks (Lopez-Paz and Ranzato 2017, arXiv 1706.08840, section 3).

The matrix is R[t][i], the score on task i (from 0) after t tasks were learned; row 0 is before the first. None where a
task was not asked. The overall performance, OP, is the mean of the last row: their ACC, and TRACE's OP.
"""

from __future__ import annotations

from collections.abc import Sequence

Matrix = Sequence[Sequence[float | None]]


def backward_transfer(matrix: Matrix) -> float | None:
    """BWT: over all tasks but the last, the mean of (score at the end - score just after the task was learned).
    Negative where it was forgotten. None for a single task."""
    tasks = len(matrix) - 1
    return _mean([_minus(matrix[tasks][i], matrix[i + 1][i]) for i in range(tasks - 1)])


def forward_transfer(matrix: Matrix) -> float | None:
    """FWT: over all tasks but the first, the mean of (score just before the task is learned - score of the untrained
    model). None for a single task, and where tasks cannot be asked before they are learned."""
    return _mean([_minus(matrix[i][i], matrix[0][i]) for i in range(1, len(matrix) - 1)])


def learned(matrix: Matrix) -> float | None:
    """The mean of the scores just after each task was learned: OP without any forgetting."""
    return _mean([matrix[i + 1][i] for i in range(len(matrix) - 1)])


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
