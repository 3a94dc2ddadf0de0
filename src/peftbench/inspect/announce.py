"""The first lines of a run: what, where and how long, at once; how many rows, as soon as they are drawn."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from peftbench.config.schema import RunConfig
from peftbench.inputs import InputCache, Inputs
from peftbench.inspect.estimate import Estimator
from peftbench.measure.clock import duration
from peftbench.records.leaderboard import newest_rows
from peftbench.records.store import Store

BASIS = 10_000
"""Newest records that an estimate rests on."""


def announce(cfg: RunConfig) -> None:
    """Say what begins. Nothing is loaded for it; earlier records tell how long it takes."""
    if speaks(cfg):
        print(first_line(cfg), file=sys.stderr, flush=True)


def speaks(cfg: RunConfig) -> bool:
    """Whether this process tells people how it goes on."""
    return cfg.trainer.progress and os.environ.get("RANK", "0") == "0"


def first_line(cfg: RunConfig) -> str:
    """What, where and how long.

    Like `lora on sst2 with minilm, 10 shots, seed 1 -> results; about 44 s (by the same model, method and task)`.
    """
    place = cfg.task.name + ("" if cfg.task.place in ("", cfg.task.name) else f"/{cfg.task.place}")
    model = f" with {cfg.model.name}" if cfg.method.needs_model else ""
    shots = "all rows" if cfg.shots == "full" else f"{cfg.shots} shots"
    search = "" if cfg.search.name == "none" else f", search={cfg.search.name}"
    what = f"{cfg.method.name} on {place}{model}, {shots}, seed {cfg.seed}{search} -> {cfg.out_dir}"
    if not Path(cfg.out_dir).is_dir():
        return what
    cost = Estimator(newest_rows(Store(cfg.out_dir), BASIS)).estimate(cfg)
    if cost.seconds is None:
        return what
    return f"{what}; about {duration(cost.seconds + (cost.import_seconds or 0))} ({cost.basis})"


class Announced(InputCache):
    """Inputs that say once how many rows were drawn."""

    def __init__(self, cfg: RunConfig) -> None:
        super().__init__()
        self._silent = not speaks(cfg)

    def load(self, cfg: RunConfig) -> Inputs:
        found = super().load(cfg)
        if not self._silent:
            drawn = found.draw
            splits = {"train": drawn.train, "dev": drawn.dev, "test": drawn.test}
            counts = ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items())
            print(f"rows: {counts}", file=sys.stderr, flush=True)
            self._silent = True
        return found
