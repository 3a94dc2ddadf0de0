"""Soft targets: a probability for each class in place of an item's label (distillation, self-training)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from peftbench.formulations.base import Encoded

SOFT_TARGETS = "soft_targets"
"""In an item's `data`: (classes,) probabilities, fp32. In a batch: (batch, classes)."""


def with_soft_target(item: Encoded, probabilities: Tensor) -> Encoded:
    """`item` with a soft target, (classes,), in the order of the task's labels."""
    return replace(item, data={**item.data, SOFT_TARGETS: probabilities})


def soft_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """KL(q_i || softmax(z_i)) of each item, (batch,), from logits z and soft targets q, both (batch, classes).

    For a target that is all on one class it is the cross-entropy of that class.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    return (torch.special.xlogy(targets, targets) - targets * log_p).sum(-1)
