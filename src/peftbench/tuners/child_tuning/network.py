"""The child network of Child-Tuning (Xu et al., EMNLP 2021, arXiv 2109.05687): which weights the gradient reaches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.errors import UsageError


class ChildNetwork:
    """Masks of gradients.

    `variant=D`: the mask is fixed before training: of the blocks' weights the `reserve` share with the greatest Fisher
    information on the train rows, estimated as released by the mean over batches of the squared gradient of a batch,
    each tensor's gradient cut to norm 1 first. Weights outside of the blocks (embeddings) are trained whole.
    `variant=F`: a fresh mask in each step, Bernoulli(`reserve`) for each weight, what is left divided by `reserve`.

    Two differences from the released optimiser: the mask is laid on before the whole gradient is clipped, not after;
    and in F the head, which is no part of the backbone, is not masked. Weight decay moves masked weights too, as there.

    Args:
        own: the weights of which F takes a part, by name.
        in_blocks: those of which D does.
        key: what stands in front of `variant` in messages.
    """

    def __init__(
        self,
        variant: str,
        reserve: float,
        seed: int,
        own: Mapping[str, nn.Parameter],
        in_blocks: Mapping[str, nn.Parameter],
        key: str = "method.tuner",
    ) -> None:
        self.variant, self.reserve, self.seed, self.key = variant, reserve, seed, key
        self.own, self.in_blocks = own, in_blocks
        self.masks: dict[str, Tensor] = {}

    def choose(self, gradients: Iterable[int]) -> list[str]:
        """Fix the mask of D; returns remarks for the reader of the result.

        Args:
            gradients: see `Tuner.before_training`.

        Raises:
            UsageError: all gradients are zero, so there is nothing to choose by.
        """
        if self.variant != "D":
            return []
        self.masks = fisher_masks(self.in_blocks, gradients, self.reserve, self.key)
        kept, all_ = sum(int(m.sum()) for m in self.masks.values()), sum(m.numel() for m in self.masks.values())
        return [f"child network: {kept:,} of the blocks' {all_:,} weights"]

    def mask(self, step: int) -> None:
        """Lay the mask of a 0-based step on the gradients."""
        if self.variant == "D":
            for name, mask in self.masks.items():
                if self.in_blocks[name].grad is not None:
                    self.in_blocks[name].grad *= mask  # type: ignore[operator]
            return
        # a generator of its own, so that the mask is the same on every process
        random = torch.Generator().manual_seed(hash_of(self.seed, step))
        for p in self.own.values():
            if p.grad is not None:
                kept = torch.rand(p.shape, generator=random) < self.reserve
                p.grad *= kept.to(p.grad) / self.reserve


def fisher_masks(
    parameters: Mapping[str, nn.Parameter], gradients: Iterable[int], reserve: float, key: str = "method.tuner"
) -> dict[str, Tensor]:
    """Name -> mask of the `reserve` share of all these weights with the greatest mean squared gradient.

    Raises:
        UsageError: all gradients are zero, so there is nothing to choose by.
    """
    fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    for batches in gradients:
        for name, p in parameters.items():
            if p.grad is not None:
                gradient = p.grad.float()
                fisher[name] += (gradient * min(1.0, 1.0 / (float(gradient.norm()) + 1e-6))) ** 2 / batches
    values = np.concatenate([f.flatten().cpu().numpy() for f in fisher.values()])
    if not values.any():
        raise UsageError(
            f"{key}.variant=D: no gradient reaches the backbone on the train rows: the head starts at zero. "
            "Set method.formulation.head_init_scale=1, or variant=F."
        )
    threshold = float(np.percentile(values, 100 * (1 - reserve)))
    return {name: (f >= threshold).to(parameters[name].dtype) for name, f in fisher.items()}


def hash_of(seed: int, step: int) -> int:
    """A seed for each step of each run."""
    return int(np.random.SeedSequence([seed % 2**32, step]).generate_state(1)[0])
