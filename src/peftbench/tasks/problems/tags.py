"""`tags`: a tag for each word of a row, which together mark entities (IOB2: `B-PER I-PER O`).

A row's words are what stands between the single spaces of its text (`words`), and its target has one tag for each. The
task's `labels` are the entity types; tags are made of them (`tag_set`). Nothing else in the row is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from peftbench.tasks.problems.base import Answers, Problem, SumMetric, ratio

if TYPE_CHECKING:
    from peftbench.tasks.base import Row, TaskData

OUTSIDE = "O"


class Entity(NamedTuple):
    """Words `start` to `end` (not included) of a row."""

    type: str
    start: int
    end: int


def words(text: str) -> list[str]:
    """The words of a row's text."""
    return text.split(" ")


def tag_set(labels: Sequence[str]) -> tuple[str, ...]:
    """`O`, then `B-` and `I-` of each entity type."""
    return (OUTSIDE, *(f"{place}-{label}" for label in labels for place in "BI"))


def entities(tags: Sequence[str] | None, strict: bool = True) -> Iterator[Entity]:
    """The entities that a row's tags mark; none for an invalid row.

    Args:
        strict: IOB2 to the letter: an entity begins with `B-` alone, so an `I-` that follows no tag of its type marks
            nothing (seqeval with `mode="strict", scheme=IOB2`). Otherwise such an `I-` begins one, as in conlleval and
            in seqeval as it is usually called.
    """
    start, current = 0, ""
    for position, tag in enumerate([*(tags or ()), OUTSIDE]):
        place, _, kind = tag.partition("-")
        if current and not (place == "I" and kind == current):
            yield Entity(current, start, position)
            current = ""
        if place == "B" or (place == "I" and not current and not strict):
            start, current = position, kind


def orphans(tags: Sequence[str]) -> int:
    """How many of the tags are an `I-` that continues nothing."""
    return sum(1 for _ in entities(tags, strict=False)) - sum(1 for _ in entities(tags))


def as_tags(data: TaskData, rows: Sequence[Row], predicted: Sequence[Any]) -> Answers:
    """Targets and predictions as they are.

    Raises:
        ValueError: a prediction does not have one tag for each word.
    """
    targets: list[Any] = [row.target for row in rows]
    for row, target, answer in zip(rows, targets, predicted, strict=True):
        if answer is not None and len(answer) != len(target):
            raise ValueError(f"{row.id}: {len(answer)} tags for {len(target)} words")
    return Answers(targets, predicted)


def _counts(target: Any, prediction: Any, strict: bool) -> tuple[int, int, int]:
    truth, guess = set(entities(target, strict)), set(entities(prediction, strict))
    return len(truth & guess), len(guess), len(truth)


def _f1(strict: bool) -> SumMetric:
    """Micro F1 of entities whose type and words are all right."""

    def counts(target: Any, prediction: Any) -> tuple[int, int]:
        right, answered, true = _counts(target, prediction, strict)
        return 2 * right, answered + true

    return SumMetric(counts, ratio)


def by_label(target: Any, prediction: Any) -> dict[str, tuple[int, int, int]]:
    """Entity type -> (right, answered, true)."""
    truth, guess = set(entities(target)), set(entities(prediction))
    right, answered, true = (Counter(e.type for e in found) for found in (truth & guess, guess, truth))
    return {kind: (right[kind], answered[kind], true[kind]) for kind in answered.keys() | true.keys()}


def show(value: Any) -> str:
    """The entities with their places: `PER 0-1, LOC 5`."""
    places = (f"{e.type} {e.start}" + (f"-{e.end - 1}" if e.end - e.start > 1 else "") for e in entities(value))
    return ", ".join(places) or "(no entity)"


PROBLEM = Problem(
    "tags",
    metrics={
        "f1_entities": _f1(strict=True),
        "f1_entities_lenient": _f1(strict=False),
        "precision_entities": SumMetric(lambda t, p: _counts(t, p, True)[:2], ratio),
        "recall_entities": SumMetric(lambda t, p: _counts(t, p, True)[::2], ratio),
        "accuracy_tags": SumMetric(
            lambda t, p: (sum(a == b for a, b in zip(t, p, strict=True)) if p else 0, len(t)), ratio
        ),
    },
    usual=("f1_entities", "precision_entities", "recall_entities"),
    answers=as_tags,
    mark="scheme",
    labels_of=lambda target: (entity.type for entity in entities(target)),
    by_label=by_label,
    show=show,
    cell=" ".join,
)
