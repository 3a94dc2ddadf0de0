"""Losses on the vectors of pairs of texts. Each is summed over the pairs of a batch.

`a` and `b` are (pairs, d); `targets` (pairs,) says how alike a pair is, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cosine(a: Tensor, b: Tensor, targets: Tensor) -> Tensor:
    """(cos(a, b) - target)^2: sentence-transformers' `CosineSimilarityLoss`, with which SetFit trains."""
    return F.mse_loss(F.cosine_similarity(a, b), targets, reduction="sum")


def mnr(scale: float) -> PairLoss:
    """Multiple negatives ranking (Henderson et al., 2017, arXiv 1705.00652): cross-entropy over scale * a_i . b_j, the
    other pairs' b being the negatives. With unit vectors sentence-transformers' `MultipleNegativesRankingLoss`."""

    def loss(a: Tensor, b: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(scale * a @ b.T, torch.arange(len(a), device=a.device), reduction="sum")

    return loss


def mnr_plus(scale: float) -> PairLoss:
    """The released code's loss of Hallee et al. (arXiv 2401.15713): ranking both ways, and the right answer to a row is
    where softmax((A A' + B B') / 2) is greatest, normally the pair itself; a near-duplicate may win."""

    def loss(a: Tensor, b: Tensor, targets: Tensor) -> Tensor:
        likeness = F.softmax(scale * (a @ a.T + b @ b.T) / 2, dim=-1).detach()
        ranked = scale * a @ b.T
        there = F.cross_entropy(ranked, likeness.argmax(dim=1), reduction="sum")
        back = F.cross_entropy(ranked.T, likeness.T.argmax(dim=1), reduction="sum")
        return (there + back) / 2

    return loss


def of(name: str, scale: float) -> PairLoss:
    """`method.contrastive.loss` -> the function."""
    return {"cosine": cosine, "mnr": mnr(scale), "mnr_plus": mnr_plus(scale)}[name]
