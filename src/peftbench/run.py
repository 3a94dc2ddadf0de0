"""The story of one run, from a checked config to one record."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench import __version__
from peftbench.config.schema import RunConfig
from peftbench.measure.clock import PhaseClock
from peftbench.results.ids import run_id
from peftbench.results.store import Store
from peftbench.tasks import load_task
from peftbench.tasks.protocols import draw
from peftbench.training.launch import launch, needs_launch

if TYPE_CHECKING:
    from peftbench.results.record import Record


def run(cfg: RunConfig) -> tuple[Record | None, bool]:
    """Run, or find the finished record of, one config.

    Returns:
        The record (None on every process but the main one) and whether it is new.

    Raises:
        UsageError: the config, the data or the draw is wrong. Nothing has been written then.
    """
    clock = PhaseClock()
    with clock("data"):
        data = load_task(cfg.task, data_dir(cfg))
        drawn = draw(data, cfg.protocol, cfg.shots, cfg.data_seed, cfg.seed)
        identity = run_id(asdict(cfg), drawn.sha256(), data.sha256(), __version__)

    store = Store(Path(cfg.out_dir))
    finished = store.load(identity)
    if finished is not None and finished.status == "done" and not cfg.rerun:
        return finished, False
    if needs_launch(cfg):
        launch(cfg)
        return store.load(identity), True

    from peftbench.session import Session

    with Session(cfg, data, drawn, identity, store, clock) as session:
        predictor = session.train()
        session.evaluate(predictor)
        session.save(predictor)
    return session.record, True


def data_dir(cfg: RunConfig) -> Path | None:
    """Where real data sets lie: the config's `data_dir`, else the environment's, else nowhere."""
    folder = cfg.data_dir or os.environ.get("PEFTBENCH_DATA")
    return Path(folder).expanduser() if folder else None
