"""Which runs of a sweep may be trained together, and why one may not. Free of torch.

What they must have in common is what one pass through the network depends on; seed, draw, task, language, rates, weight
decay, warm-up, schedule, clipping and dev choice are each run's own (`peftbench.training.together`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.config import registry
from peftbench.config.components import choices
from peftbench.config.schema import RunConfig
from peftbench.models.content import content_id

LARGEST = 8
"""Runs in a group with `trainer.together=auto`."""
WORTH = 1.15
"""Times as fast as alone that a shape must have been measured to be for `auto`."""
GAINS = Path(__file__).with_name("together_gains.json")
STAGES = ["supervised"]
SHARED = ("batch_size", "micro_batch", "max_length", "precision", "attention", "device", "threads")
"""Keys of the trainer in which the runs of a group are alike."""


def why_alone(cfg: RunConfig) -> str:
    """Why a run cannot be trained together with any other, in a phrase; "": it can."""
    method, trainer = cfg.method, cfg.trainer
    tuner = registry.get("tuner", method.tuner.name) if method.needs_model else None
    reasons = {
        "it has no backbone": not method.needs_model,
        "it has no labelled rows to train on": cfg.labelled == 0,
        "its stages are not `supervised` alone": list(method.stages) != STAGES,
        "it has a trick": bool(method.trick),
        "its data is made by a recipe": cfg.recipe is not None,
        "its settings are searched": cfg.search.name != "none",
        "it starts from another run": method.init_from is not None,
        "it has dropout": trainer.dropout != 0 or bool(getattr(method.formulation, "dropout", 0)),
        "it recomputes activations": trainer.gradient_checkpointing,
        "it reads frozen blocks": trainer.reuse_frozen,
        "it has several processes": trainer.devices > 1,
        f"method.tuner={method.tuner.name} is not trained side by side": not _side_by_side(tuner, method.tuner),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _side_by_side(tuner: Any, options: Any) -> bool:
    return tuner is None or bool(getattr(tuner, "side_by_side", lambda options: False)(options))


def group_key(cfg: RunConfig) -> str:
    """Equal for runs that can be trained together, of those that can be with any."""
    method, trainer = cfg.method, cfg.trainer
    facts = {
        "model": [asdict(cfg.model), content_id(cfg.model)],
        "tuner": [asdict(method.tuner), method.budget],
        "formulation": method.formulation.name,
        "length": getattr(method.formulation, "max_length", None),
        "trainer": [getattr(trainer, name) for name in SHARED],
        "problem": choices(cfg).problem,
    }
    return json.dumps(facts, sort_keys=True, default=str)


def group_size(cfg: RunConfig) -> int:
    """The most runs in a group of this one; 1: it is trained alone."""
    wanted = cfg.trainer.together
    if wanted == "off" or why_alone(cfg):
        return 1
    return int(wanted) if wanted != "auto" else LARGEST if wins(cfg) else 1


def groups(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """The groups in which runs that are to be done will be trained, by one process."""
    found, open_groups = list[list[RunConfig]](), dict[str, list[RunConfig]]()
    for cfg in configs:
        size = group_size(cfg)
        group = open_groups.get(group_key(cfg)) if size > 1 else None
        if group is None or len(group) >= group_size(group[0]):
            found.append(group := [])
            if size > 1:
                open_groups[group_key(cfg)] = group
        group.append(cfg)
    return found


def wins(cfg: RunConfig) -> bool:
    """Whether such runs were measured to train faster together, by enough."""
    return gain(cfg) >= WORTH


def gain(cfg: RunConfig) -> float:
    """How many times as fast such runs were measured to train together on a CPU (`scripts/bench_together.py`): with the
    same tuner, at the next length that was measured, on a network as wide and deep or more, in batches as large or
    larger. 0: nothing like it was measured."""
    if cfg.trainer.device == "cuda":
        return 0.0
    width, layers = (cfg.model.arch.get(name) for name in ("hidden_size", "num_hidden_layers"))
    own = getattr(cfg.method.formulation, "max_length", None) or cfg.trainer.max_length
    alike = [
        line
        for line in gains()
        if line["tuner"] == cfg.method.tuner.name
        and line["length"] >= own
        and line["batch"] >= cfg.trainer.batch_size
        and (line["model"] == cfg.model.name or bool(width and width <= line["width"] and layers <= line["layers"]))
    ]
    nearest = min((line["length"] for line in alike), default=0)
    return max((float(line["ratio"]) for line in alike if line["length"] == nearest), default=0.0)


@cache
def gains() -> list[dict[str, Any]]:
    """What was measured: a line a network, tuner and length."""
    found: list[dict[str, Any]] = json.loads(GAINS.read_text(encoding="utf-8"))
    return found
