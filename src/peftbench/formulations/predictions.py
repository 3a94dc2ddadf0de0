"""What a model answered. Free of torch, so that floors and record keeping can use it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answered for one row.

    Attributes:
        id: the row's id.
        label: a label name, a float for regression, or None when the answer could not be read as a label; None is
            counted as wrong and counted apart, never replaced by some class.
        scores: label name -> score (logit or log-likelihood), empty when the formulation has none.
        answer: the raw generated text, for `generate`.
    """

    id: str
    label: str | float | None
    scores: dict[str, float] = field(default_factory=dict)
    answer: str | None = None
