"""Which items meet in a batch. Everything here follows from lengths and a seed, never from the number of processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftbench.errors import UsageError

if TYPE_CHECKING:
    from peftbench.config.schema import TrainerConfig

MEGA_BATCHES = 4
"""A pass is cut into at least this many shuffled parts before lengths are sorted inside each, so that a small set does
not meet in the same batches on every pass."""


def total_steps(cfg: TrainerConfig, items: int, repeats: int = 1) -> int:
    """Optimiser steps of a training over `items` items: `steps` if given, else `epochs` passes of `repeats` steps on
    each batch."""
    if cfg.steps is not None:
        return cfg.steps
    if cfg.epochs is None:
        raise UsageError("trainer.steps and trainer.epochs are both null; give one, for example `trainer.steps=160`.")
    return max(1, math.ceil(cfg.epochs * math.ceil(items / cfg.batch_size))) * repeats


def plan_batches(
    lengths: Sequence[int], batch_size: int, steps: int, seed: int, shares: Sequence[float] | None = None
) -> list[list[int]]:
    """The global batch of each step, as positions in `lengths`.

    Every item comes once in a pass, or as often as its share says, in the mean over passes: 2.3 is twice in each and
    once more in three of ten. A pass is shuffled, cut into mega-batches, sorted by length inside each and cut
    into batches, whose order is shuffled again: items of like length meet (little padding), yet batches differ from
    pass to pass. The tail: when `batch_size` does not divide the number of items, one batch of each pass is short
    (its mean is over fewer items); no item is dropped or repeated to fill it.
    """
    if not lengths:
        raise ValueError("no items to train on")
    size = np.asarray(lengths)
    plan: list[list[int]] = []
    while len(plan) < steps:
        # RandomState: its stream is frozen across numpy versions, so a plan is the same on any machine.
        random = np.random.RandomState([seed % 2**32, len(plan)])
        order = random.permutation(len(size) if shares is None else _repeated(shares, random))
        mega = batch_size * max(1, min(len(size) // (batch_size * MEGA_BATCHES), 50))
        parts = (order[start : start + mega] for start in range(0, len(order), mega))
        order = np.concatenate([part[np.argsort(size[part], kind="stable")] for part in parts])
        batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
        plan += [batches[i] for i in random.permutation(len(batches))]
    return plan[:steps]


def _repeated(shares: Sequence[float], random: np.random.RandomState) -> np.ndarray:
    """Each position as often as it comes in one pass; at least one of all."""
    share = np.asarray(shares)
    counts = np.floor(share + random.random_sample(len(share))).astype(int)
    if not counts.any():
        counts[share.argmax()] = 1
    return np.repeat(np.arange(len(share)), counts)


def shard(batch: Sequence[int], rank: int, world: int, micro_batch: int | None) -> list[list[int]]:
    """What `rank` of `world` does of a global batch, in forward passes of at most `micro_batch` items.

    Strided, so that each rank gets its share of the long items; at least one (maybe empty) pass, since every rank
    must take part in the exchange of gradients.
    """
    mine = list(batch[rank::world])
    size = micro_batch or max(1, len(mine))
    return [mine[start : start + size] for start in range(0, len(mine), size)] or [[]]


def evaluation_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Every position once, longest first (what does not fit in memory shows at once), at most `budget` tokens with
    padding in a batch; an item above the budget is alone in its batch."""
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
