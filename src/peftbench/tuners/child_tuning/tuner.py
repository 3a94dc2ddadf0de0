"""Child-Tuning (Xu et al., EMNLP 2021, arXiv 2109.05687): only a part of the gradient reaches the weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.child_tuning import ChildTuningOptions
from peftbench.tuners.plain import FullTuner


class ChildTuningTuner(FullTuner):
    """Full fine-tuning whose gradients are masked in every step. Group `backbone`.

    `variant=D`: the mask is fixed before training: of the blocks' weights the `reserve` share with the greatest Fisher
    information on the train rows, estimated as released by the mean over batches of the squared gradient of a batch,
    each tensor's gradient cut to norm 1 first. Weights outside of the blocks (embeddings) are trained whole.
    `variant=F`: a fresh mask in each step, Bernoulli(`reserve`) for each weight, what is left divided by `reserve`.

    Two differences from the released optimiser: the mask is laid on before the whole gradient is clipped, not after;
    and in F the head, which is no part of the backbone, is not masked. Weight decay moves masked weights too, as there.
    """

    cfg: ChildTuningOptions

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        self.seed = context.seed
        self.masks: dict[str, Tensor] = {}
        model = super().build(backbone, context)
        blocks = tuple(f"{block.name}." for block in anatomy_of(backbone.model).blocks())
        self.in_blocks = [name for name, _ in model.named_parameters() if name.startswith(blocks)]
        return model

    def before_training(self, model: nn.Module, gradients: Iterable[int]) -> None:
        if self.cfg.variant == "D":
            own = {name: p for name, p in model.named_parameters() if name in set(self.in_blocks) and p.requires_grad}
            self.masks = fisher_masks(own, gradients, self.cfg.reserve)
            kept, all_ = sum(int(m.sum()) for m in self.masks.values()), sum(m.numel() for m in self.masks.values())
            self.notes = [f"child network: {kept:,} of the blocks' {all_:,} weights"]

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        named = {name: p for name, p in model.named_parameters() if p.grad is not None}
        if self.cfg.variant == "D":
            for name in self.masks.keys() & named.keys():
                named[name].grad *= self.masks[name]  # type: ignore[operator]
            return
        # a generator of its own, so that the mask is the same on every process
        random = torch.Generator().manual_seed(hash_of(self.seed, step))
        for p in named.values():
            kept = torch.rand(p.shape, generator=random) < self.cfg.reserve
            p.grad *= kept.to(p.grad) / self.cfg.reserve  # type: ignore[operator, union-attr]


def fisher_masks(parameters: dict[str, nn.Parameter], gradients: Iterable[int], reserve: float) -> dict[str, Tensor]:
    """Name -> mask of the `reserve` share of all these weights with the greatest mean squared gradient.

    Args:
        gradients: see `Tuner.before_training`.

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
            "method.tuner.variant=D: no gradient reaches the backbone on the train rows: the head starts at zero. "
            "Set method.formulation.head_init_scale=1, or variant=F."
        )
    threshold = float(np.percentile(values, 100 * (1 - reserve)))
    return {name: (f >= threshold).to(parameters[name].dtype) for name, f in fisher.items()}


def hash_of(seed: int, step: int) -> int:
    """A seed for each step of each run."""
    return int(np.random.SeedSequence([seed % 2**32, step]).generate_state(1)[0])
