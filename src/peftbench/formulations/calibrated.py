"""What the stage `calibration` asks of a formulation: how likely its answers are whatever the text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from peftbench.formulations.base import Batch


class Calibrated(ABC):
    """Mixed into a `Formulation` whose answers may be divided by a prior.

    Attributes:
        cfg: options, with `calibration` ("none", "contextual" or "prior") and `prior_rows`.
    """

    cfg: Any

    @abstractmethod
    def word_scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(passes, scores) of a batch, fp32; the prior is made of their mean over texts, or of all of them."""

    @abstractmethod
    def calibrate(self, model: nn.Module, scores: Tensor) -> int:
        """Take the prior from (texts, scores), or from their mean, (1, scores); how many answers that removed."""

    @abstractmethod
    def answer_count(self) -> int:
        """Answers, or label words, that have a prior."""
