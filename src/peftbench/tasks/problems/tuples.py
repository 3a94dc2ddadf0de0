"""`tuples`: a set of tuples of texts a row, as ABSA's extraction subtasks ask for.

Scores are micro averages over the tuples of all rows: a tuple is right if each of its elements is, letter by letter,
and counts once a row. How tuples are written and read is in `peftbench.tasks.tuple_formats`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import Problem, SumMetric, ratio

if TYPE_CHECKING:
    from peftbench.tasks.base import TaskData


def counts(target: Any, prediction: Any) -> tuple[int, int, int]:
    """Right, given and asked for, each tuple once a row. An invalid prediction gives none."""
    truth, guess = _set(target), _set(prediction)
    return len(truth & guess), len(guess), len(truth)


def f1_counts(target: Any, prediction: Any) -> tuple[int, int]:
    """Twice the tuples that match exactly in every element, and all that were asked for or given."""
    right, given, asked = counts(target, prediction)
    return 2 * right, given + asked


def _set(tuples: Any) -> set[tuple]:
    return {tuple(t) for t in tuples or ()}


def write(target: Any, data: TaskData, style: str) -> str:
    """`words`: a JSON list of lists, the same for every task. `paper`: as the paper of the data writes them."""
    from peftbench.tasks.tuple_formats import format_of

    return format_of(style, data.tuple_form).write(target, data.tuple_form)


def parse(text: str, data: TaskData, style: str) -> tuple[tuple[str, ...], ...] | None:
    """The tuples that a text says, None if it is not in the format."""
    from peftbench.tasks.tuple_formats import format_of

    return format_of(style, data.tuple_form).read(text, data.tuple_form)


def write_spans(source: str, target: Any, data: TaskData) -> str:
    """Tuples by places in the source."""
    from peftbench.tasks.edit_spans import write_places

    return write_places(source, target, data.tuple_form)


def read_spans(source: str, text: str, data: TaskData) -> tuple[tuple[tuple[str, ...], ...] | None, int]:
    """The tuples that a text says of the source, and how many of it say nothing."""
    from peftbench.tasks.edit_spans import read_places

    return read_places(source, text, data.tuple_form)


def show(value: Any) -> str:
    """`(battery, good); (screen, bad)`."""
    return "; ".join(f"({', '.join(map(str, t))})" for t in value) or "(none)"


PROBLEM = Problem(
    "tuples",
    metrics={
        "f1_tuples": SumMetric(f1_counts, ratio),
        "precision_tuples": SumMetric(lambda t, p: counts(t, p)[:2], ratio),
        "recall_tuples": SumMetric(lambda t, p: counts(t, p)[::2], ratio),
    },
    usual=("f1_tuples", "precision_tuples", "recall_tuples"),
    always=("precision_tuples", "recall_tuples"),
    mark="elements",
    write=write,
    parse=parse,
    write_spans=write_spans,
    read_spans=read_spans,
    styles=("words", "paper"),
    room=96,
    show=show,
)
