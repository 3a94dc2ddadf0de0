"""Answers with probabilities. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peftbench.records.manifest import Manifest

if TYPE_CHECKING:
    from peftbench.formulations.predictions import Prediction


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run's model says about one new row.

    Attributes:
        label: a label name, a number for regression, the tags of a text's words, tuples, a text, or None if what the
            model wrote is none of what was asked for.
        probabilities: label name -> probability, adding up to 1; empty for regression and for generated text.
        scores: what the probabilities are made from: label name -> logit, or mean log-likelihood of its words.
        text: what a generating model wrote.
    """

    label: str | float | tuple[Any, ...] | None
    probabilities: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    text: str | None = None

    @property
    def probability(self) -> float | None:
        """Of the label; None where there are no probabilities."""
        return self.probabilities.get(str(self.label))


def answers_of(predictions: Sequence[Prediction], manifest: Manifest) -> list[Answer]:
    """Answers in the order of the predictions. Scores of classical models are probabilities already."""
    is_classes = manifest["task"]["problem"] == "classification"

    def probabilities(scores: dict[str, float]) -> dict[str, float]:
        if not is_classes:
            return {}
        return scores if manifest["kind"] == "classical" else softmax(scores)

    return [Answer(p.label, probabilities(p.scores), p.scores, p.answer) for p in predictions]


def softmax(scores: dict[str, float]) -> dict[str, float]:
    """Probabilities in proportion to exp(score)."""
    top = max(scores.values(), default=0.0)
    powers = {name: math.exp(score - top) for name, score in scores.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}
