"""A metric: the recall of the class that is found least often."""

from __future__ import annotations

from collections.abc import Sequence


def worst_recall(references: Sequence[str], predictions: Sequence[str | None]) -> float:
    """A fraction, from the label names of the rows and of the answers; an invalid answer is None, and wrong."""
    right = [reference == answer for reference, answer in zip(references, predictions, strict=True)]
    found = {label: [ok for ok, own in zip(right, references, strict=True) if own == label] for label in {*references}}
    return min(sum(of_class) / len(of_class) for of_class in found.values())
