"""Labels from an ensemble: weighted means of logits, and the growing training sets of iPET. Plain numpy.

Schick and Schuetze, EACL 2021, arXiv 2001.07676, sections 3.3 and 3.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from peftbench.tasks.base import Row

Matrix = NDArray[np.float32]
"""(rows, classes)"""


def weighted_mean(logits: Sequence[Matrix], weights: Sequence[float]) -> Matrix:
    """sum_k w_k s_k / sum_k w_k of several models' (rows, classes) logits; the plain mean if every weight is 0."""
    w = np.asarray(weights, dtype=np.float64)
    w = w if w.any() else np.ones_like(w)
    return (np.einsum("k,knc->nc", w, np.stack(logits).astype(np.float64)) / w.sum()).astype(np.float32)


def softmax(logits: Matrix, temperature: float = 1.0) -> Matrix:
    """Probabilities of the classes, row by row, of logits / temperature."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def fitted_temperature(logits: Matrix, classes: Sequence[int]) -> float:
    """The temperature, between 1/20 and 20, at which (rows, classes) logits give these classes the highest likelihood
    (Guo et al., ICML 2017, arXiv 1706.04599)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    scores, rows = logits.astype(np.float64), np.arange(len(classes))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(scores / np.exp(log_temperature), axis=1)[rows, list(classes)].mean())

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def draw_others(position: int, count: int, share: float, random: np.random.RandomState) -> list[int]:
    """A random `share` of the models but the one at `position`, at least one; positions in order."""
    others = [i for i in range(count) if i != position]
    size = max(1, round(share * len(others)))
    return sorted(random.choice(others, size=size, replace=False).tolist())


def wishes(targets: Sequence[str], labels: Sequence[str], factor: float) -> dict[str, int]:
    """Label -> how many pseudo-labelled rows make the labelled ones `factor` times as many, proportions kept.

    The labelled rows stay in the set and count in its size.
    """
    have = Counter(targets)
    return {label: round(have[label] * factor) - have[label] for label in labels}


def draw_pseudo_labelled(
    rows: Sequence[Row],
    probabilities: Matrix,
    labels: Sequence[str],
    want: Mapping[str, int],
    likely: int,
    random: np.random.RandomState,
) -> list[Row]:
    """Rows with the label that the models give them, as many a label as wanted, or all that have it.

    Args:
        probabilities: (rows, classes), which decide the labels; of the rows of one label, those that the models are
            surer of are drawn sooner, in proportion.
        likely: for a label that no row has, take so many of the rows in which it is most probable.
    """
    predicted, drawn = probabilities.argmax(axis=1), []
    for c, label in enumerate(labels):
        own = np.flatnonzero(predicted == c)
        if len(own):
            confidence = probabilities[own, c].astype(np.float64)
            size = min(want[label], len(own))
            taken = random.choice(own, size=size, replace=False, p=confidence / confidence.sum())
        else:
            taken = np.argsort(-probabilities[:, c], kind="stable")[: min(likely, want[label])]
        drawn += [replace(rows[i], target=label) for i in sorted(taken.tolist())]
    return drawn
