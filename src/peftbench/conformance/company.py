"""`together equals alone`: two trainings as a group, beside the same two by themselves."""

from __future__ import annotations

from functools import partial

import torch

from peftbench.config import registry
from peftbench.conformance.bench import Bench
from peftbench.conformance.checks import Verdict, failed, passed
from peftbench.training.together import train_together
from peftbench.tuners.base import Tuner

STEPS = 6
FACTORS = (1.0, 0.3)
"""Multiples of the learning rates, one a run."""


def claims_together(tuner: Tuner) -> bool:
    """Whether a tuner is declared to be trained side by side (`TunerDeclaration.side_by_side`)."""
    name = getattr(tuner.cfg, "name", "")
    return name in registry.built_in("tuner") and bool(registry.get("tuner", name).side_by_side(tuner.cfg))


def together(bench: Bench) -> Verdict:
    """Losses and weights of runs that share their passes are those of the runs alone, bit for bit (a CPU, fp32)."""
    alone, group = ([bench.learner() for _ in FACTORS] for _ in range(2))
    known = [bench.train(learner, factor, steps=STEPS) for learner, factor in zip(alone, FACTORS, strict=True)]
    works = [partial(bench.train, each, factor, steps=STEPS) for each, factor in zip(group, FACTORS, strict=True)]
    found = train_together(group, works)
    parts = [learner.together for learner in group if learner.together is not None]
    if reasons := [part.why_alone for part in parts if part.why_alone]:
        return failed(reasons[0])
    for one, other, result, wanted in zip(group, alone, found, known, strict=True):
        if result.curves["loss"] != wanted.curves["loss"]:
            return failed("losses differ from those of the run alone")
        mine, theirs = one.trainable_state(), other.trainable_state()
        if changed := [name for name in theirs if not torch.equal(mine[name], theirs[name])]:
            return failed(f"{changed[0]} differs from that of the run alone ({len(changed)} of {len(theirs)} tensors)")
    return passed(f"bit for bit, {parts[0].passes} passes shared")
