"""A trick: answers that are too sure cost something (Pereyra et al., 2017, arXiv 1701.06548): loss - beta H(p)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peftbench.config.schema import TrickConfig, number
from peftbench.stages.tricks.base import Trick, always


@dataclass
class ConfidencePenaltyOptions(TrickConfig):
    """`method.trick.LABEL`: the weight of the entropy."""

    beta: float = number(0.1, ge=0)


def penalised(passes: Any, options: ConfidencePenaltyOptions, loss: Callable[[], Any]) -> Any:
    """`loss`, less the weighted entropy of the batch's answers."""
    log_p = passes.logits().log_softmax(-1)
    return loss() + options.beta * (log_p.exp() * log_p).sum()


TRICK = Trick(
    ConfidencePenaltyOptions,
    loss=penalised,
    neutral=lambda options: options.beta == 0,
    needs_scores=always,
    problems=frozenset({"classification"}),
)
