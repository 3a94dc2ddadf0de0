"""Prompt tuning from BayesPrompt's vectors (Li et al., ICLR 2024, arXiv 2401.14166), and what holds it to them.

`particles.py` makes the vectors. Three ways to train from there, on a frozen backbone (the original trains it all):

- freely: the vectors are the first prompt and no more. Our reading of what the method is worth as a prompt.
- `pull`: with a penalty, pull |P - P_0|^2 in the loss, that keeps the prompt near its start. Ours as well.
- `overwrite`: as the published code does. One vector, the mean of a few particles drawn anew, stands in all rows of the
  prompt, and no gradient reaches where it came from. The code draws it in each training and test batch after the first
  epoch; here it is drawn after each step, so that an answer does not depend on how test items are batched.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.bayesprompt import BayesPromptOptions
from peftbench.tuners.bayesprompt.particles import Particles, domain_particles
from peftbench.tuners.dept.tuner import set_prompt
from peftbench.tuners.prompt_tuning.tuner import PromptTuningTuner
from peftbench.tuners.soft_prompt_model import adapter_of

EPOCHS = 50
"""The original's; in the first of them the rows are ordinary weights. Here: the first of so many parts of the steps."""


class BayesPromptTuner(PromptTuningTuner):
    """l vectors before the embedded input that start as, and may be held to, vectors of the domain. Group `prompt`."""

    cfg: BayesPromptOptions  # type: ignore[assignment]
    particles: Particles
    start: Tensor
    """P_0, (l, d)."""
    seed: int

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        if self.cfg.overwrite and self.cfg.pull:
            raise UsageError(
                f"method.tuner.overwrite=true leaves nothing for method.tuner.pull={self.cfg.pull:g} to pull. "
                "Set one of them only."
            )
        if self.cfg.overwrite:
            self.notes.append("the prompt is drawn anew after each step, as in the original: nothing in it is learned")
        return super().build(backbone, context)

    def start_rows(self, backbone: Backbone, context: TunerContext) -> Tensor | None:
        if context.restoring:
            return None
        self.particles = domain_particles(backbone, context, whole_pool=self.cfg.init == "bayesprompt")
        self.seed = context.seed
        self.start = self.particles.rows(self.cfg.num_virtual_tokens, np.random.default_rng(self.seed))
        return self.start

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Add the gradient of pull |P - P_0|^2."""
        if self.cfg.pull:
            prompt = adapter_of(model)[1]["P"]
            gradient = 2 * self.cfg.pull * (prompt.detach() - self.start.to(prompt))
            prompt.grad = gradient if prompt.grad is None else prompt.grad + gradient

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Put a freshly drawn vector in all rows; which one follows from the seed and the 0-based `step` alone."""
        if self.cfg.overwrite and step + 1 >= math.ceil(steps / EPOCHS):
            with torch.no_grad():
                set_prompt(model, self.particles.rows(1, np.random.default_rng([self.seed, step])))
