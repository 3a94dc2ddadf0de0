"""A run that several devices train together: one process each, and the first of them files the record."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.config.schema import RunConfig
from peftbench.errors import Interrupted, UsageError
from peftbench.records.leaderboard import refresh
from peftbench.stages import stages_of
from peftbench.training.launch import Outcome, launch

if TYPE_CHECKING:
    from peftbench.records.record import Record
    from peftbench.records.store import Store


def run_on_devices(cfg: RunConfig, store: Store, expected: Record) -> Record:
    """Start `trainer.devices` processes for the run, wait, and read the record that the first of them filed.

    If they died without filing one (killed, out of memory), `expected` is filed as failed in their name.
    """
    if not all(stage.several_processes for stage in stages_of(cfg.method.stages)):
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
    refresh(store)
    return record
