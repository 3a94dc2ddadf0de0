"""`code`: a piece of source code a row, over several lines. The target is the tuple of references, the first one
what a model learns to write. An answer is all that is written; where that is nothing it is invalid, and nothing of it
is right.

Metrics compare texts or parse them (`peftbench.tasks.code_metrics`). Nothing is ever executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems import text
from peftbench.tasks.problems.base import Problem, SumMetric, ratio

if TYPE_CHECKING:
    from peftbench.tasks.base import TaskData


def parse(written: str, data: TaskData, style: str) -> str | None:
    """All of it, without the white space around it."""
    return written.strip() or None


def _share(name: str, needs: Any = None) -> SumMetric:
    """The mean over rows of a function (target, answer) -> share of `peftbench.tasks.code_metrics`, which imports
    NumPy."""

    def counts(target: Any, answer: Any) -> Sequence[float]:
        from peftbench.tasks import code_metrics

        return (getattr(code_metrics, name)(target, answer), 1)

    return SumMetric(counts, ratio, needs)


def _need_java() -> None:
    from peftbench.tasks.code_metrics import java_parser

    java_parser()


PROBLEM = Problem(
    "code",
    metrics={
        "bleu": text.PROBLEM.metrics["bleu"],
        "exact_match": _share("exact_match"),
        "edit_similarity": _share("edit_similarity"),
        "parses_java": _share("parses_java", _need_java),
    },
    usual=("bleu", "edit_similarity", "exact_match"),
    answers=text.as_sourced,
    sourced=True,
    mark="code",
    write=text.write,
    parse=parse,
    is_right=lambda target, prediction: prediction in target,
    room=192,
    show=lambda value: " ".join(text.show(value).split()),
)
