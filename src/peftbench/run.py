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
from peftbench.errors import Interrupted, UsageError
from peftbench.inputs import InputCache
from peftbench.measure.clock import PhaseClock
from peftbench.records.leaderboard import rebuild
from peftbench.records.store import Store
from peftbench.session import Session, base_record
from peftbench.training.launch import Outcome, find_place, launch

if TYPE_CHECKING:
    from peftbench.records.record import Record

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
    if cfg.trainer.devices > 1 and place is None:
        return run_on_devices(cfg, store, base_record(cfg, data, drawn, identity)), True

    with Session(cfg, data, drawn, identity, store, clock) as session:
        if session.is_known:
            return session.known, False
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
        outcome = launch(config, cfg.trainer.devices)
    record = store.load(expected.run_id)
    if record is not None and earlier is not None and record.created == earlier.created:
        record = None  # it is not theirs
    if outcome.code == 2 and record is None:
        raise SystemExit(2)  # the first process has said what is wrong
    if record is None or (record.status == "failed" and outcome.killed):
        record = file_for_the_dead(outcome, store, record or expected)
    if outcome.signal is not None:
        raise Interrupted(outcome.signal)
    return record


def file_for_the_dead(outcome: Outcome, store: Store, record: Record) -> Record:
    """Say in the record what the processes could not say any more."""
    reasons = [outcome.reason, record.reason] if outcome.reason else [f"exit code {outcome.code}"]
    record.reason = "; ".join(filter(None, reasons))
    record.status = "failed" if outcome.signal is None else "interrupted"
    with store.claim(record.run_id):
        store.save(record)
    rebuild(store)
    return record


def run_in_process(config: dict[str, Any]) -> int:
    """One of several processes that train together; returns its exit code. See `peftbench.ddp_worker`."""
    record, _ = run(from_plain(config))
    return 0 if record is None or record.status == "done" else 1
