"""Pairs of labelled texts, as the setfit library makes them. Free of torch.

A pair of rows of one class is positive (target 1), of two classes negative (target 0). A row with itself is a positive
pair, in the library as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

Places = list[tuple[int, int]]
MOST_ROWS = 5000
"""All pairs of more rows are not written down (12.5 million)."""


class Labelled(NamedTuple):
    """Positive and negative pairs, by the places of their rows."""

    positive: Places
    negative: Places


def enumerated(labels: Sequence[str], random: np.random.RandomState) -> Labelled:
    """All unordered pairs of rows, each row with itself among them, in a random order (setfit >= 1.0)."""
    places = np.stack(np.triu_indices(len(labels)), axis=-1)
    found = Labelled([], [])
    for first, second in places[random.permutation(len(places))].tolist():
        (found.positive if labels[first] == labels[second] else found.negative).append((first, second))
    return found


def drawn(labels: Sequence[str], iterations: int, random: np.random.RandomState) -> Labelled:
    """In each iteration, for each row: one of its class, which may be itself, and one of another (setfit 0.6)."""
    names, found = np.array(labels), Labelled([], [])
    alike = {label: np.flatnonzero(names == label) for label in dict.fromkeys(labels)}
    others = {label: np.flatnonzero(names != label) for label in alike}
    for _ in range(iterations):
        for i, label in enumerate(labels):
            found.positive.append((i, int(random.choice(alike[label]))))
            found.negative.append((i, int(random.choice(others[label]))))
    return found


def labelled_pairs(labels: Sequence[str], how: str, iterations: int, random: np.random.RandomState) -> Labelled:
    """The pairs to train on.

    Args:
        how: `iterations`: rows x iterations pairs of either kind, taken in turn from all there are (the library's
            `num_iterations`); `drawn`: as many, drawn anew for each row; `oversampling`: all, the rarer kind repeated
            up to the other; `undersampling`: the commoner kind cut to the other; `unique`: all, once.
        random: decides the order.
    """
    if how == "drawn":
        return drawn(labels, iterations, random)
    found = enumerated(labels, random)
    sizes = {
        "iterations": [iterations * len(labels)] * 2,
        "oversampling": [max(map(len, found))] * 2,
        "undersampling": [min(map(len, found))] * 2,
        "unique": [len(kind) for kind in found],
    }[how]
    return Labelled(*(list(islice(cycle(kind), size)) for kind, size in zip(found, sizes, strict=True)))
