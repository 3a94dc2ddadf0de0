"""Metrics of several answers by their meaning: cosines of `model=minilm`, to be named in `task.metrics` as
`peftbench.formulations.diversity:semantic_diversity`. An encoder's vectors are no business of a task's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from peftbench.formulations.bi_encoder import sentence_vectors

Vectors = Callable[[Sequence[str]], np.ndarray]
"""Texts -> (texts, d) vectors of length 1."""
ENCODER = "minilm"


def semantic_diversity(references: Sequence[Any], predictions: Sequence[Any], vectors: Vectors | None = None) -> float:
    """1 - mean cosine of two answers of one row, over all pairs of all rows (Mai and Carson-Berndsen, arXiv 2412.03343,
    measure it so); 0 where no row has two answers."""
    answers = [list(prediction) for prediction in predictions if prediction is not None and len(prediction) > 1]
    cosines = [_cosines(row, row, vectors)[np.triu_indices(len(row), 1)] for row in answers]
    return 1 - float(np.concatenate(cosines).mean()) if cosines else 0.0


def semantic_closeness(references: Sequence[Any], predictions: Sequence[Any], vectors: Vectors | None = None) -> float:
    """Mean cosine of an answer with the nearest one of its row's target; ours, in the place of a judge of coherence. An
    invalid prediction counts 0."""
    best: list[float] = []
    for target, prediction in zip(references, predictions, strict=True):
        known = [answer for _, answers in target for answer in answers]
        best += [0.0] if prediction is None else _cosines(list(prediction), known, vectors).max(1).tolist()
    return float(np.mean(best))


def _cosines(first: list[str], second: list[str], vectors: Vectors | None) -> np.ndarray:
    made = (vectors or sentence_vectors(ENCODER))([*first, *second])
    product: np.ndarray = made[: len(first)] @ made[len(first) :].T
    return product
