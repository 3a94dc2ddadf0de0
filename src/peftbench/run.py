"""The story of one run, from a checked config to one record."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.config.load import from_plain
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.measure.clock import PhaseClock
from peftbench.results.leaderboard import rebuild
from peftbench.results.store import Store
from peftbench.session import Session, base_record
from peftbench.training.launch import find_place, launch

if TYPE_CHECKING:
    from peftbench.results.record import Record

TRIALS = "trials"
"""Folder under `out_dir` with the runs of searches, which end with a dev score. No view of the results looks there."""


def run(cfg: RunConfig, inputs: InputCache | None = None) -> tuple[Record | None, bool]:
    """Run, or find the finished record of, one config.

    Args:
        inputs: data sets and draws that earlier runs of this process left; None loads them.

    Returns:
        The record (None on every process but the main one) and whether it is new.

    Raises:
        UsageError: the config, the data or the draw is wrong. Nothing has been written then.
    """
    clock, inputs = PhaseClock(), inputs or InputCache()
    with clock("data"):
        data, drawn, identity = inputs.load(cfg)

    store = store_of(cfg)
    place = find_place(os.environ)
    finished = store.load(identity)
    if finished is not None and finished.status == "done" and not cfg.rerun:
        return (finished if place is None or place.rank == 0 else None), False
    if cfg.search.name != "none" and cfg.tuning.get("study") != identity:
        from peftbench.sweeps.search import tune

        return run(tune(cfg, inputs), inputs)
    if cfg.trainer.devices > 1 and place is None:
        return run_on_devices(cfg, store, base_record(cfg, data, drawn, identity)), True

    with Session(cfg, data, drawn, identity, store, clock) as session:
        predictor = session.train()
        predictions = session.evaluate(predictor)
        session.save(predictor, predictions)
    return (session.record if session.main else None), True


def store_of(cfg: RunConfig) -> Store:
    """Where the run is filed: `out_dir`, or a folder of its own in it for the trials of searches."""
    return Store(Path(cfg.out_dir, TRIALS) if cfg.evaluate == "dev" else cfg.out_dir)


def run_on_devices(cfg: RunConfig, store: Store, expected: Record) -> Record:
    """Start `trainer.devices` processes for the run, wait, and read the record that the first of them filed.

    If they died without filing one (killed, out of memory), `expected` is filed as failed in their name.
    """
    if "classical" in cfg.method.stages:
        raise UsageError(f"trainer.devices={cfg.trainer.devices}: method={cfg.method.name} runs in one process.")
    earlier = store.load(expected.run_id)
    with tempfile.TemporaryDirectory(prefix="peftbench-") as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(asdict(cfg)), encoding="utf-8")
        code = launch(config, cfg.trainer.devices)
    record = store.load(expected.run_id)
    if record is not None and (earlier is None or record.created != earlier.created):
        return record
    if code == 2:
        raise SystemExit(2)  # the first process has said what is wrong
    expected.reason = f"the {cfg.trainer.devices} processes ended with exit code {code} before they filed a record"
    store.save(expected)
    rebuild(store)
    return expected


def run_in_process(config: dict[str, Any]) -> int:
    """One of several processes that train together; returns its exit code. See `peftbench.training.worker`."""
    record, _ = run(from_plain(config))
    return 0 if record is None or record.status == "done" else 1
