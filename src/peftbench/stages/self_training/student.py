"""A student as the training loop sees it: a learner that learns soft targets, each with a weight of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from peftbench.formulations.base import Batch, Encoded
from peftbench.stages.around import AroundLearner
from peftbench.stages.self_training import SelfTrainingOptions
from peftbench.stages.self_training.meta_weights import (
    Gradient,
    gradient_of,
    inner_products,
    inner_products_by_item,
    normalised,
)
from peftbench.stages.soft_losses import SoftLosses, collate_soft
from peftbench.training import batching
from peftbench.training.predict import to_device

if TYPE_CHECKING:
    from peftbench.learner import Learner
    from peftbench.training.distributed import Dist

log = logging.getLogger(__name__)

TALLY = "student/tally"
"""In a checkpoint: steps with weights, those in which all were 0, the sum of effective batch sizes, and the
forward passes of unlabelled rows."""
TOLERANCE = 1e-3
"""Of the product of both norms: how far the two ways to an inner product may lie apart in fp32."""


@dataclass(frozen=True)
class Labelled:
    """The labelled rows that weights are chosen by: one mini-batch for each step."""

    items: Sequence[Encoded]
    plan: Sequence[Sequence[int]]

    @classmethod
    def planned(cls, items: Sequence[Encoded], size: int, steps: int, seed: int) -> Labelled:
        """Mini-batches of `size` items for `steps` steps."""
        return cls(items, batching.plan_batches([item.length for item in items], size, steps, seed))

    def of_step(self, step: int) -> list[Encoded]:
        """The items of a 0-based step."""
        return [self.items[i] for i in self.plan[step]]


class Student(AroundLearner):
    """`learner` on items with soft targets. From step `first` on, weights come from `labelled`; before, all are 1.

    `forward` is the sum over a batch of weight x KL(target || prediction). The weights of a step have mean 1 over its
    global batch, or are all 0. Without `labelled` all steps are uniform.
    """

    def __init__(
        self,
        learner: Learner,
        cfg: SelfTrainingOptions,
        dist: Dist,
        micro_batch: int | None = None,
        labelled: Labelled | None = None,
        first: int = 0,
    ) -> None:
        super().__init__(learner)
        self.cfg, self.dist, self.micro_batch = cfg, dist, micro_batch
        self.labelled, self.first = labelled, first
        self.weights: dict[str, float] = {}
        """Row id -> weight in the present step; empty in a uniform one."""
        self.forward_mode: bool | None = None
        """Whether inner products come from forward-mode derivatives; None until that was tried."""
        self.tally = torch.zeros(4, dtype=torch.float64)

    def collate(self, items: Sequence[Encoded]) -> Batch:
        return collate_soft(self.learner, items)

    def forward(self, batch: Batch) -> Tensor:
        losses = SoftLosses(self.learner)(batch)
        if not self.weights:
            return losses.sum()
        return (losses * losses.new_tensor([self.weights[id_] for id_ in batch["ids"]])).sum()

    def begin_step(self, step: int, seed: int, items: Sequence[Encoded]) -> None:
        """Choose the weights of the step's items, the same on every process."""
        self.learner.begin_step(step, seed, items)
        self.weights = {}
        if self.labelled is None or step < self.first:
            return
        shares = self._normalised(self._products(items, self.labelled.of_step(step)))
        unlabeled = sum(item.data["target"] is None for item in items)
        self.tally += torch.tensor([1, not shares.any(), effective_size(shares), unlabeled], dtype=torch.float64)
        self.weights = {item.id: len(items) * w for item, w in zip(items, shares.tolist(), strict=True)}

    @property
    def weighting_passes(self) -> int:
        """Forward passes of unlabelled rows for their weights alone: one a row and weighted step."""
        return int(self.tally[3])

    def _normalised(self, products: Tensor) -> Tensor:
        return normalised(products, self.cfg.variant, self.cfg.inner_lr)

    def _products(self, items: Sequence[Encoded], labelled: Sequence[Encoded]) -> Tensor:
        """<grad L_m, grad l_i> of the global batch's items, in order, on the CPU.

        In eval mode and in fp32 whatever the run computes in: small products of large vectors are differences of large
        sums. Each process does its share of the items.
        """
        was_training = self.learner.training
        self.learner.eval()
        try:
            losses = SoftLosses(self.learner)
            batch = to_device(self.learner.collate(labelled), self.dist.device)
            direction = gradient_of(self.learner(batch) / len(labelled), losses)
            own = list(items[self.dist.rank :: self.dist.world])
            if self.forward_mode is None:
                self.forward_mode = self._forward_mode_works(losses, items[:1], direction)
            compute = inner_products if self.forward_mode else inner_products_by_item
            size = self.micro_batch or max(1, len(own))
            parts = [own[start : start + size] for start in range(0, len(own), size)]
            found = [p for part in parts for p in compute(losses, self._batch(part), direction).tolist()]
        finally:
            self.learner.train(was_training)
        products = torch.zeros(len(items))
        for rank, values in enumerate(self.dist.gather(found)):
            products[rank :: self.dist.world] = torch.tensor(values)
        return products

    def _batch(self, items: Sequence[Encoded]) -> Batch:
        return to_device(self.collate(items), self.dist.device)

    def _forward_mode_works(self, losses: SoftLosses, items: Sequence[Encoded], direction: Gradient) -> bool:
        """Try it on an item and compare with a backward pass: a module that keeps a parameter out of its own sight, or
        an operation without a forward mode, must not go unnoticed."""
        batch = self._batch(items)
        exact = inner_products_by_item(losses, batch, direction)
        try:
            found = inner_products(losses, batch, direction)
        except NotImplementedError as error:
            log.info("no forward-mode derivative (%s); a backward pass for each item instead", error)
            return False
        own = gradient_of(losses(batch).sum(), losses)
        bound = norm(own) * norm(direction)
        return bool((found - exact).abs().max() <= TOLERANCE * bound)

    def notes(self) -> list[str]:
        """What a reader of the result must know about the weights."""
        steps, empty, effective, _ = self.tally.tolist()
        if not steps:
            return []
        how = "forward-mode derivatives" if self.forward_mode else "a backward pass for each item"
        shown = f"weights of {steps:.0f} steps from {how}; mean effective batch {effective / steps:.1f}"
        return [shown + (f"; in {empty:.0f} of them all weights were 0" if empty else "")]

    def trainable_state(self) -> dict[str, Tensor]:
        return self.learner.trainable_state()

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        self.learner.load_trainable_state(state)

    def training_state(self) -> dict[str, Tensor]:
        return {**self.learner.training_state(), TALLY: self.tally.clone()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.tally = state[TALLY].clone()
        self.learner.load_training_state({name: t for name, t in state.items() if name != TALLY})


def effective_size(shares: Tensor) -> float:
    """(sum w)^2 / sum w^2: how many items of equal weight would say as much; 0 if there are no weights."""
    squares = float(shares.square().sum())
    return float(shares.sum()) ** 2 / squares if squares else 0.0


def norm(gradient: Gradient) -> float:
    """Euclidean norm over all parameters."""
    return float(torch.stack([g.float().square().sum() for g in gradient.values()]).sum().sqrt())
