"""What a model answered. Free of torch, so that floors and record keeping can use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answered for one row.

    Attributes:
        id: the row's id.
        label: the answer, of the kind of the task's targets: a label name, a score, a tuple of tags ...; None when it
            could not be read as one, which counts as wrong and is counted apart, never replaced by some class.
        scores: label name -> score (logit or log-likelihood), empty when the formulation has none.
        vector: (d,) the text's embedding, for `embed`; not recorded.
        answer: the raw generated text, for `generate`.
    """

    id: str
    label: str | float | tuple[Any, ...] | None
    scores: dict[str, float] = field(default_factory=dict)
    answer: str | None = None
    vector: np.ndarray | None = field(default=None, compare=False, repr=False)
