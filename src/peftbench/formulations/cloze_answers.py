"""What the scores of a cloze's label words mean: a class, or a place between two words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from peftbench.formulations.predictions import Prediction
from peftbench.formulations.soft_targets import soft_losses
from peftbench.tasks.base import Target, TaskData


class ClassAnswer:
    """The class whose words score highest; cross-entropy."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    def label_of(self, target: Target | None) -> str:
        """Which label's word is written for a target."""
        return str(target)

    def encode(self, target: Target | None) -> int | None:
        """A target as the loss wants it; None stays None."""
        return None if target is None else self.labels.index(str(target))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar: the sum over a batch, from logits (batch, classes) and targets (batch,)."""
        return F.cross_entropy(logits, targets, reduction="sum")

    def read(self, id_: str, logits: Tensor) -> Prediction:
        """From the logits (classes,) of one row."""
        return Prediction(id_, self.labels[int(logits.argmax())], dict(zip(self.labels, logits.tolist(), strict=True)))


class ScoreAnswer:
    """A score y of a regression task, between a word for its lowest and one for its highest value (LM-BFF, arXiv
    2012.15723).

    With p the softmax over the two words, the answer is low + p_high (high - low), and the loss KL(t || p) with
    t = ((high - y), (y - low)) / (high - low).

    Args:
        labels: names of the two ends.
        score_range: (low, high).
    """

    def __init__(self, labels: tuple[str, ...], score_range: tuple[float, float]) -> None:
        self.labels = labels
        self.low, self.high = score_range

    def label_of(self, target: Target | None) -> str:
        """The nearer end; a score in the middle belongs to the upper one, as in LM-BFF's draw."""
        return self.labels[float(target) >= (self.low + self.high) / 2]  # type: ignore[arg-type]

    def encode(self, target: Target | None) -> tuple[float, float] | None:
        """The two ends' shares in a score; None stays None."""
        if target is None:
            return None
        share = (float(target) - self.low) / (self.high - self.low)  # type: ignore[arg-type]
        return 1 - share, share

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar: the sum over a batch, from logits and targets (batch, 2)."""
        return soft_losses(logits, targets).sum()

    def read(self, id_: str, logits: Tensor) -> Prediction:
        """From the logits (2,) of one row."""
        share = float(torch.softmax(logits, 0)[1])
        return Prediction(
            id_, self.low + share * (self.high - self.low), dict(zip(self.labels, logits.tolist(), strict=True))
        )


def answer_of(task: TaskData) -> ClassAnswer | ScoreAnswer:
    """How the task is answered."""
    if task.problem == "regression":
        assert task.score_range is not None, f"task {task.name}: a regression task has a score_range"
        return ScoreAnswer(task.cloze_labels, task.score_range)
    return ClassAnswer(task.labels)
