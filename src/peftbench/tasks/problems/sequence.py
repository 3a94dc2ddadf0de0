"""`sequence`: the targets of several tasks, each of its own kind. `tasks.sequence` makes such rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import Answers, Problem

if TYPE_CHECKING:
    from peftbench.tasks.base import Row, TaskData


def by_task(data: TaskData, rows: Sequence[Row], predicted: Sequence[Any]) -> Answers:
    """The main score of each task that has rows, as a fraction, in the place of the references."""
    from peftbench.tasks.metrics import score_tasks

    found = score_tasks(data, rows, predicted)
    return Answers([scores[data.tasks[name].main_metric] / 100 for name, scores in found.items()], ())


def op(answers: Answers) -> float:
    """Overall performance (Chaudhry et al. 2018, TRACE): the mean over the tasks of their main metrics."""
    return sum(answers.references) / len(answers.references)


PROBLEM = Problem("sequence", metrics={"op": op}, usual=("op",), answers=by_task, by_item=False, mark="tasks")
