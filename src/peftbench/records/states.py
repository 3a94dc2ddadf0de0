"""How runs stand: from their records, their claims, and what a working process says of its progress. Free of torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peftbench.files import read_file
from peftbench.records.leaderboard import Row, rows_of
from peftbench.records.leases import Holder
from peftbench.records.store import Store

STATES = ("running", "pending", "unfinished", "interrupted", "failed", "diverged", "done")
"""running: a living process holds it. unfinished: a process died over it and left no record. pending: nothing is there.
The others are the statuses of its record."""

TO_DO = ("pending", "unfinished", "interrupted", "failed", "diverged")
"""What the same command would do (again)."""

PROGRESS = "progress.json"


@dataclass(frozen=True)
class RunState:
    """How one run stands.

    Attributes:
        row: the leaderboard's row of its record, of an earlier attempt perhaps.
        holder: who works on it, or who died over it.
        progress: what the process last wrote: stage, phase, step, steps, loss, updated.
    """

    run_id: str
    state: str
    row: Row | None = None
    holder: Holder | None = None
    progress: dict[str, Any] | None = None

    @property
    def reason(self) -> str:
        """Why its record says that it did not end as it should."""
        return "" if self.row is None else self.row.get("reason") or ""

    def step(self) -> str:
        """How far it is, `train 40/160`."""
        if not self.progress:
            return ""
        step, steps = self.progress.get("step"), self.progress.get("steps")
        where = str(self.progress.get("phase") or self.progress.get("stage") or "")
        return f"{where} {step}/{steps}".strip() if step is not None and steps else where


def run_states(store: Store, run_ids: Iterable[str]) -> dict[str, RunState]:
    """The state of each of these runs, by run id."""
    wanted = list(dict.fromkeys(run_ids))
    rows, holders, folders = rows_of(store, wanted), store.holders(), _names(store.out_dir / "runs")
    return {name: _state(store, name, rows.get(name), holders.get(name), name in folders) for name in wanted}


def _state(store: Store, run_id: str, row: Row | None, holder: Holder | None, has_folder: bool) -> RunState:
    alive = holder is not None and holder.alive
    if row is not None and not alive:
        return RunState(run_id, row["status"], row)
    if not alive and not has_folder:
        return RunState(run_id, "pending")
    return RunState(run_id, "running" if alive else "unfinished", row, holder, read_progress(store.folder(run_id)))


def at_work(store: Store) -> list[str]:
    """Run ids of what is running, or was left without a record."""
    alive = [run_id for run_id, holder in store.holders().items() if holder.alive]
    recorded = {entry.name[: -len(".json")] for entry in store.scan()}
    return list(dict.fromkeys([*alive, *sorted(_names(store.out_dir / "runs") - recorded)]))


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What the process that works in a run's folder last said of itself."""
    return read_json(folder / PROGRESS)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is none, as far as can be seen now."""
    try:
        found = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name[0] != "."}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def age_seconds(created: str) -> float | None:
    """Seconds since a moment that was written as ISO 8601; None if it cannot be read."""
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return None
    return (datetime.now(timezone.utc) - then.replace(tzinfo=then.tzinfo or timezone.utc)).total_seconds()
