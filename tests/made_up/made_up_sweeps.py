"""Results that somebody left behind: records, run folders, claims of the dead and sweeps, without a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.sweep import Sweep

OWNER = {"host": "node7", "pid": 4711, "since": "2026-11-21T08:00:00+00:00", "machine": "another", "started": "1"}


def file_record(store: Store, run_id: str, status: str = "done", **changes: Any) -> Record:
    """A record as a run files it."""
    facts: dict[str, Any] = {
        "created": "2026-11-21T08:00:00+00:00",
        "model": "tiny-bert",
        "method": "lora",
        "task": "demo_news",
        "subset": "eng",
        "protocol": "default",
        "shots": 10,
        "data_seed": 42,
        "seed": 1,
        "metric": "accuracy",
        "score": 80.0 if status == "done" else None,
    }
    record = Record(run_id, status, **{**facts, **changes})  # type: ignore[arg-type]
    store.save(record)
    return record


def age(path: Path, days: float) -> Path:
    """Make a file, or a folder and all in it, look as old as that."""
    then = time.time() - days * 86_400
    for each in [path, *path.rglob("*")]:
        os.utime(each, (then, then))
    return path


def put(path: Path, content: str = "x" * 1000) -> Path:
    """A file, its folders made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def dead_claim(store: Store, run_id: str, beat_age: float = 7200.0) -> Path:
    """The claim of a process on another machine that has not been heard of for two hours."""
    path = put(store.claims / f"{run_id}.{'f' * 16}.json", json.dumps(OWNER))
    return age(path, beat_age / 86_400)


def begin_sweep(store: Store, jobs: Sequence[tuple[str, str | None]], **changes: Any) -> Sweep:
    """A sweep of (override, run id) pairs; no run id: a mistake. A repeated run id: a duplicate."""
    first: dict[str, int] = {}
    made = []
    for number, (override, run_id) in enumerate(jobs):
        earlier = first.setdefault(run_id, number) if run_id else number
        same = None if earlier == number else earlier
        made.append(Job(number, (override,), None, run_id, "" if run_id else f"{override}: no such key", same))
    return Sweep.create(store.out_dir, made, "local", ["peftbench", "-m", "seed=1,2"], **changes)
