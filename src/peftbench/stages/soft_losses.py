"""A learner that is trained on soft targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.formulations.base import Batch, Encoded
from peftbench.formulations.soft_targets import SOFT_TARGETS, soft_losses
from peftbench.learner import Learner


def collate_soft(learner: Learner, items: Sequence[Encoded]) -> Batch:
    """The learner's batch of items with soft targets, and these targets beside it."""
    return {**learner.collate(items), SOFT_TARGETS: torch.stack([item.data[SOFT_TARGETS] for item in items])}


def divergences(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax(p_i) || softmax(q_i)) of each item, (batch,), from logits (batch, classes); of the outputs (batch, 1)
    of a regression the squared difference."""
    if p.shape[-1] == 1:
        return (p.float() - q.float()).square().squeeze(-1)
    log_p, log_q = torch.log_softmax(p.float(), -1), torch.log_softmax(q.float(), -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


class SoftLosses(nn.Module):
    """A learner as a function from a batch with soft targets to the loss of each of its items, (batch,)."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch) -> Tensor:
        learner: Any = self.learner
        return soft_losses(learner.formulation.logits(learner.model, batch), batch[SOFT_TARGETS])
