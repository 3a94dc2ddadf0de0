"""A sweep as its folder remembers it, and what came of its runs as their records say.

out_dir/sweeps/<sweep_id>/
  manifest.json     which runs there are, who asked for them and when
  logs/             what processes that worked for the sweep printed

The results are never in here: they are the records of the runs.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from peftbench.files import read_file, readable_errors, write_atomic
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.sweeps.jobs import Job

MANIFEST = "manifest.json"
SHOWN = 3
"""Runs that are named under each cause of failure."""


@dataclass(frozen=True)
class SweepJob:
    """A job as the manifest keeps it; see `peftbench.sweeps.jobs.Job`."""

    number: int
    overrides: tuple[str, ...]
    run_id: str | None
    error: str = ""
    same_as: int | None = None

    def __str__(self) -> str:
        return " ".join(self.overrides)


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
        folder: its own, `out_dir/sweeps/<sweep_id>`.
        created: UTC, ISO 8601.
        command: the command line.
        launcher: name of the launcher.
        host, pid: the process that began it.
    """

    folder: Path
    created: str
    command: tuple[str, ...]
    launcher: str
    host: str
    pid: int
    jobs: tuple[SweepJob, ...]

    @property
    def sweep_id(self) -> str:
        """Its name: UTC time to the second and four random hex digits."""
        return self.folder.name

    @property
    def logs(self) -> Path:
        """Where processes that work for it write; it may not exist yet."""
        return self.folder / "logs"

    @classmethod
    def create(
        cls, out_dir: str | Path, jobs: Sequence[Job], launcher: str, command: Sequence[str] | None = None
    ) -> Sweep:
        """Begin a sweep: a folder that no other sweep has, and the manifest in it.

        Raises:
            UsageError: the folder cannot be written.
        """
        kept = tuple(SweepJob(j.number, j.overrides, j.run_id, j.error, j.same_as) for j in jobs)
        sweep = cls(
            folder=_new_folder(Path(out_dir) / "sweeps"),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=tuple(sys.argv if command is None else command),
            launcher=launcher,
            host=socket.gethostname(),
            pid=os.getpid(),
            jobs=kept,
        )
        plain = {"sweep_id": sweep.sweep_id, **asdict(sweep)}
        del plain["folder"]
        write_atomic(sweep.folder / MANIFEST, json.dumps(plain, indent=1, ensure_ascii=False).encode())
        return sweep

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """The sweep in a folder. Raises OSError or ValueError if its manifest is not there or damaged."""
        plain = json.loads(read_file(folder / MANIFEST))
        try:
            jobs = tuple(SweepJob(**{**job, "overrides": tuple(job["overrides"])}) for job in plain["jobs"])
            facts = {name: plain[name] for name in ("created", "launcher", "host", "pid")}
            return cls(folder=folder, command=tuple(plain["command"]), jobs=jobs, **facts)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / MANIFEST}: not the manifest of a sweep: {error}") from error

    @classmethod
    def all(cls, out_dir: str | Path) -> list[Sweep]:
        """Every sweep in `out_dir`, oldest first; a folder without a sound manifest is none."""
        found = []
        for path in sorted(Path(out_dir).glob(f"sweeps/*/{MANIFEST}")):
            try:
                found.append(cls.load(path.parent))
            except (OSError, ValueError):
                continue
        return found

    def outcomes(self, store: Store) -> list[Outcome]:
        """What came of each distinct run, from the records. Results of before the sweep count if they are done."""
        distinct = [job for job in self.jobs if job.run_id is not None and job.same_as is None]
        return [(job, self._current(store.read(store.path(str(job.run_id))))) for job in distinct]

    def _current(self, record: Record | None) -> Record | None:
        stale = record is not None and record.status != "done" and record.created < self.created
        return None if stale else record


Outcome = tuple[SweepJob, Record | None]
"""A run and its record; None if it was not finished."""


def _new_folder(sweeps: Path) -> Path:
    """A fresh folder named by the time; of sweeps begun in the same second each gets its own."""
    with readable_errors("write to", sweeps):
        sweeps.mkdir(parents=True, exist_ok=True)
        while True:
            now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            folder = sweeps / f"{now}-{secrets.token_hex(2)}"
            try:
                folder.mkdir(exist_ok=False)
            except FileExistsError:
                continue
            return folder


def report(outcomes: Iterable[Outcome], why: Mapping[str, str] | None = None) -> str:
    """The end of a sweep in words: the failures by cause with the file that says more. "" if all is well.

    Runs that share a cause stand together, the most frequent cause first.

    Args:
        why: what is known, beside their records, of runs that did not come to their end, by run id.
    """
    why = why or {}
    causes: dict[str, list[tuple[SweepJob, str]]] = {}
    for job, record in outcomes:
        if record is None or record.status != "done":
            state = "not finished" if record is None else record.status
            reason = "; ".join(filter(None, ["" if record is None else record.reason, why.get(str(job.run_id), "")]))
            causes.setdefault(f"{state}: {cause(reason)}" if reason else state, []).append((job, reason))
    lines = []
    for words, members in sorted(causes.items(), key=lambda item: -len(item[1])):
        lines.append(f"{_runs(len(members))} {words}")
        lines += _named(members, lambda member: f"{member[0]}   [{member[0].run_id}]")
        details = detail_file(members[0][1])
        lines += [f"    details: {details}"] if details else []
    return "\n".join(lines)


def warnings_by_kind(outcomes: Iterable[Outcome]) -> list[str]:
    """A line for each kind of warning in the records' diagnoses, the most frequent first; numbers and names in
    backticks make no kind of their own."""
    kinds: dict[str, list[str]] = {}
    carrying = 0
    for _, record in outcomes:
        warnings = [] if record is None else list(record.diagnosis.get("warnings", ()))
        carrying += bool(warnings)
        for kind in {kind_of(text): text for text in warnings}.items():
            kinds.setdefault(kind[0], []).append(kind[1])
    if not carrying:
        return []
    ordered = sorted(kinds.values(), key=len, reverse=True)
    head = f"warnings: {_runs(carrying)} carr{'ies' if carrying == 1 else 'y'} some, each in its record"
    return [head, *(f"    {_runs(len(members))}: {members[0]}" for members in ordered)]


def kind_of(warning: str) -> str:
    """A warning without what differs from run to run.

    >>> kind_of("37 % of `dev` rows were cut (12 of 32)")
    'N % of `...` rows were cut (N of N)'
    """
    return re.sub(r"\d+(?:[.,]\d+)*", "N", re.sub(r"`[^`]*`", "`...`", warning))


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _named(members: Sequence, name: Callable) -> list[str]:
    """A line for each of the first few."""
    more = len(members) - SHOWN
    return [f"    {name(member)}" for member in members[:SHOWN]] + ([f"    ... and {more} more"] if more > 0 else [])


_DETAILS = re.compile(r"\s*\((?:traceback|log): (?P<file>.+?)\)\s*$", re.DOTALL)


def cause(reason: str) -> str:
    """The first line of a record's reason without what differs from run to run.

    >>> cause("ValueError: bad shape (traceback: results/runs/0123456789abcdef/traceback.txt)")
    'ValueError: bad shape'
    >>> cause("the training loss became nan at step 17")
    'the training loss became nan at step N'
    """
    first = next(iter(_DETAILS.sub("", reason).strip().splitlines()), "") or "no reason was recorded"
    first = re.sub(r"\b[0-9a-f]{16}\b", "RUN", first)
    first = re.sub(r"\b0x[0-9a-f]+\b", "0x...", first)
    return re.sub(r"\b(step|process|rank|pid|job) \d+(_\d+)?", r"\1 N", first)


def detail_file(reason: str) -> str | None:
    """The file that a record's reason names for those who want to know more."""
    match = _DETAILS.search(reason)
    return match["file"] if match else None
