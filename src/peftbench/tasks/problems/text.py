"""`text`: a text a row, for which one or several references stand: the target is the tuple of them, the first one what
a model learns to write. An answer is right if it is one of the references, letter by letter.

An answer is the first line of what is written that says something; where there is none it is invalid, and counts as
nothing that is right (`peftbench.tasks.text_metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import Answers, Problem, Sourced, SumMetric, UniqueMetric, ratio

if TYPE_CHECKING:
    from peftbench.tasks.base import Row, TaskData


def as_sourced(data: TaskData, rows: Sequence[Row], predicted: Sequence[Any]) -> Answers:
    """References with the text that they are of.

    Raises:
        TypeError: a prediction is neither text nor None.
    """
    for answer in predicted:
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"{answer!r}: a predicted text is a text or None")
    targets: list[Any] = [row.target for row in rows]
    return Answers([Sourced(row.text, t, n) for n, (row, t) in enumerate(zip(rows, targets, strict=True))], predicted)


def write(target: Any, data: TaskData, style: str) -> str:
    """The first reference."""
    return str(target[0])


def parse(text: str, data: TaskData, style: str) -> str | None:
    """The first line that says something, without the spaces around it."""
    return next((line.strip() for line in text.splitlines() if line.strip()), None)


def write_spans(source: str, target: Any, data: TaskData) -> str:
    """The edits that make the first reference of the source."""
    from peftbench.tasks.edit_spans import write_edits

    return write_edits(source, target[0])


def read_spans(source: str, text: str, data: TaskData) -> tuple[str | None, int]:
    """The source after the edits that a text says, and how many could not be made."""
    from peftbench.tasks.edit_spans import read_edits

    return read_edits(source, text)


def show(value: Any) -> str:
    """A text as it is, references one behind the other."""
    return value if isinstance(value, str) else " | ".join(value)


def _metric(name: str) -> SumMetric:
    """Of `peftbench.tasks.text_metrics`, which imports NumPy."""

    def function(part: str) -> Any:
        from peftbench.tasks import text_metrics

        return getattr(text_metrics, f"{name}_{part}")

    return SumMetric(lambda t, p: function("counts")(t, p), lambda sums: function("value")(sums))


def _pairs_of_words(prediction: Any) -> list[Any]:
    from peftbench.tasks.problems.answers import grams

    return list(grams((prediction,), 2)) if prediction else []


PROBLEM = Problem(
    "text",
    metrics={
        "gleu": _metric("gleu"),
        "sari": _metric("sari"),
        "bleu": _metric("bleu"),
        "exact_match": SumMetric(lambda t, p: (p in t.references, 1), ratio),
        "distinct_2": UniqueMetric(_pairs_of_words),
        "starts_with": SumMetric(lambda t, p: (p is not None and p.startswith(tuple(t.references)), 1), ratio),
    },
    usual=("bleu", "exact_match"),
    answers=as_sourced,
    sourced=True,
    mark="references",
    write=write,
    parse=parse,
    write_spans=write_spans,
    read_spans=read_spans,
    is_right=lambda target, prediction: prediction in target,
    room=128,
    show=show,
)
