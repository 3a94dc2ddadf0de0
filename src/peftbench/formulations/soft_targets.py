"""Soft targets: a probability for each class in place of an item's label (distillation, self-training)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from peftbench.formulations.base import Encoded

SOFT_TARGETS = "soft_targets"
"""In an item's `data`: (classes,) probabilities, fp32. In a batch: (batch, classes)."""


def gives_class_scores(formulation: Any) -> bool:
    """Whether a formulation, or a class of them, has scores of all classes that can be learned from soft targets."""
    return hasattr(formulation, "logits")


def with_soft_target(item: Encoded, probabilities: Tensor) -> Encoded:
    """`item` with a soft target, (classes,), in the order of the task's labels."""
    return replace(item, data={**item.data, SOFT_TARGETS: probabilities})


def soft_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """KL(q_i || softmax(z_i)) of each item, (batch,), from logits z and soft targets q, both (batch, classes).

    For a target that is all on one class it is the cross-entropy of that class.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    return (torch.special.xlogy(targets, targets) - targets * log_p).sum(-1)
