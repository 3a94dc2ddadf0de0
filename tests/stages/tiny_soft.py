"""A tiny learner and a few items, some with soft targets."""

from __future__ import annotations

import torch
from made_up_configs import compose

from peftbench.build import build_learner
from peftbench.formulations.base import Encoded
from peftbench.formulations.soft_targets import with_soft_target
from peftbench.inputs import InputCache
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock


def tiny(*overrides: str, shots: int = 3) -> tuple[Learner, list[Encoded], list[Encoded]]:
    """A learner off its start, its labelled items, and ten items with random soft targets."""
    cfg = compose(["model=tiny-bert", "task=demo_news", f"shots={shots}", "trainer.max_length=24", *overrides])
    data, drawn, _ = InputCache().load(cfg)
    learner, _ = build_learner(cfg, data, PhaseClock(), drawn.train)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    targets = torch.softmax(5 * torch.randn(10, len(data.labels)), -1)
    soft = [with_soft_target(i, q) for i, q in zip(learner.encode(drawn.unlabeled[:10]), targets, strict=True)]
    return learner.eval(), learner.encode(drawn.train), soft
