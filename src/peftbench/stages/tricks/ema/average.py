"""An exponential moving average of the trained weights (Polyak and Juditsky, SIAM Journal on Control and Optimization
1992; as `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn`, without a copy of the frozen network)."""

from __future__ import annotations

import torch
from torch import Tensor

from peftbench.learner import Learner
from peftbench.stages.tricks.ema import EmaOptions
from peftbench.stages.tricks.training import Hook


class Average(Hook):
    """mean <- decay mean + (1 - decay) weights after each step; the first step's weights begin it."""

    keeps = True

    def __init__(self, learner: Learner, options: EmaOptions, seed: int) -> None:
        super().__init__()
        self.decay = options.decay
        self.trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_step(self, step: int, steps: int) -> None:
        for name, parameter in self.trained.items():
            if name in self.mean:
                self.mean[name].lerp_(parameter, 1 - self.decay)
            else:
                self.mean[name] = parameter.detach().clone()

    def kept(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**state, **self.state()}

    def state(self) -> dict[str, Tensor]:
        return {name: mean.to("cpu", copy=True) for name, mean in self.mean.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.mean = {name: mean.to(self.trained[name].device, copy=True) for name, mean in state.items()}
