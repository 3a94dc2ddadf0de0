"""`peftbench gc`: what killed processes and finished sweeps left behind. Says what there is; removes it with --yes.

Nothing that a living process works on is touched: what lies in a run's folder is looked at again, and removed, only
while this process itself holds the claim on the run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from peftbench.attempt import ATTEMPTS, PROGRESS
from peftbench.files import readable_errors
from peftbench.options import OptionParser, number
from peftbench.records.find import existing_store
from peftbench.records.leaderboard import rows_of
from peftbench.records.leases import LeaseHeld, time_on
from peftbench.records.states import run_states
from peftbench.records.store import Store
from peftbench.sweeps.sweep import Sweep
from peftbench.views.display import print_table, say, size

DAY = 86_400.0
WRITING_SECONDS = 3600.0
"""No process takes longer from the first byte of a temporary file to its renaming."""

KINDS = {
    "temporary file": "of a process that was killed while it wrote",
    "draft": "of a checkpoint that was never finished",
    "checkpoint": "of a run that is done",
    "note": "of an attempt at a run that is done",
    "claim": "of a process that has died",
    "run folder": "without a record; the run would start anew",
    "log": "of a sweep whose runs are all done",
    "superseded": "replaced by rerun=true",
    "quarantine": "a damaged record",
}


@dataclass(frozen=True)
class Leftover:
    """Something that may go. `run_id` is the run whose claim protects it, if there is one."""

    kind: str
    path: str
    bytes: int
    run_id: str | None = None


@dataclass(frozen=True)
class GcOptions:
    """What the user wants gone: things older than `days`, and what is only removed on request."""

    days: float = 1.0
    superseded: bool = False
    quarantine: bool = False


def gc_command(argv: Sequence[str]) -> int:
    """`peftbench gc`; returns the exit code."""
    options = _parser().parse(argv)
    store = existing_store(options.out_dir)
    wanted = GcOptions(options.older_than, options.superseded, options.quarantine)
    with readable_errors("look through", store.out_dir):
        found = list(leftovers(store, wanted))
    if options.yes:
        found = list(remove(store, found, wanted))
    if options.json:
        print(json.dumps({"removed": options.yes, "leftovers": [asdict(leftover) for leftover in found]}, indent=1))
    else:
        _print(found, options.yes)
    return 0


_DAYS = number("a number of days, 0 or more", lambda days: 0 <= days < float("inf"))


def _parser() -> OptionParser:
    parser = OptionParser(
        "gc", "Lists what killed processes and finished sweeps left behind, and removes it with --yes."
    )
    parser.add_argument("--yes", action="store_true", help="remove it; without this nothing is changed")
    parser.add_argument(
        "--older-than", type=_DAYS, default=1.0, metavar="DAYS", help="age of run folders and logs; default: 1"
    )
    parser.add_argument("--superseded", action="store_true", help="also what rerun=true replaced")
    parser.add_argument("--quarantine", action="store_true", help="also records that were found damaged")
    return parser


def leftovers(store: Store, wanted: GcOptions) -> Iterator[Leftover]:
    """Everything that may go. What a living process holds is left out."""
    now = time_on(store.out_dir)
    yield from _of_runs(store, wanted, now)
    for folder in (store.out_dir, store.records, store.claims, *_folders(store.out_dir / "sweeps")):
        yield from _temporary(folder, None, now)
    yield from _logs(store, wanted, now)
    if wanted.superseded:
        yield from (_leftover("superseded", path) for path in _entries(store.out_dir / "superseded"))
    if wanted.quarantine:
        yield from (_leftover("quarantine", path) for path in _entries(store.out_dir / "quarantine"))


def _of_runs(store: Store, wanted: GcOptions, now: float) -> Iterator[Leftover]:
    holders = store.holders()
    names = [path.name for path in _folders(store.out_dir / "runs")]
    rows = rows_of(store, names)
    for run_id in sorted({*names, *holders}):
        holder = holders.get(run_id)
        if holder is not None and holder.alive:
            continue
        status = rows[run_id]["status"] if run_id in rows else None
        yield from _of_run(store.folder(run_id), run_id, status, wanted, now)
        if holder is not None:
            yield from (_leftover("claim", path, run_id) for path in sorted(store.claims.glob(f"{run_id}.*.json")))


def _of_run(folder: Path, run_id: str, status: str | None, wanted: GcOptions, now: float) -> Iterator[Leftover]:
    """What may go of one run that nobody works on. `status` is that of its record; None if it has none."""
    if folder.is_symlink() or not folder.is_dir():
        return  # behind a link lies what is not ours
    if status is None and _age(folder, now) > wanted.days * DAY:
        yield _leftover("run folder", folder, run_id)
        return
    if status == "done":
        # what it would have gone on from; the process died just after it had filed the record
        ended = [folder / "stages", *folder.glob("checkpoint-*")]
        yield from (_leftover("checkpoint", path, run_id) for path in sorted(ended) if path.is_dir())
        yield from (_leftover("note", path, run_id) for path in _notes(folder))
        drafts = list(folder.glob("draft-*"))
    else:
        drafts = list(folder.rglob("draft-*"))
    yield from (_leftover("draft", path, run_id) for path in sorted(drafts))
    yield from _temporary(folder, run_id, now)


def _notes(folder: Path) -> list[Path]:
    """What an attempt at a run notes while it lasts."""
    return [path for path in (folder / PROGRESS, folder / ATTEMPTS) if path.exists()]


def _temporary(folder: Path, run_id: str | None, now: float) -> Iterator[Leftover]:
    """Hidden files that `write_atomic` would have renamed long ago."""
    for path in sorted(folder.glob(".*.tmp")):
        if _age(path, now) > WRITING_SECONDS:
            yield _leftover("temporary file", path, run_id)


def _logs(store: Store, wanted: GcOptions, now: float) -> Iterator[Leftover]:
    for sweep in Sweep.all(store.out_dir):
        logs = sweep.logs
        if logs.is_dir() and _age(logs, now) > wanted.days * DAY:
            run_ids = [job.run_id for job in sweep.jobs if job.run_id is not None]
            if all(run.state == "done" for run in run_states(store, run_ids).values()):
                yield _leftover("log", logs)


def remove(store: Store, found: Iterable[Leftover], wanted: GcOptions) -> Iterator[Leftover]:
    """Remove leftovers and yield those that are gone. A run that somebody has begun meanwhile is left alone."""
    runs: set[str] = set()
    for leftover in found:
        if leftover.run_id is None:
            if _delete(Path(leftover.path)):
                yield leftover
        elif leftover.run_id not in runs:
            runs.add(leftover.run_id)
            claims = [other for other in found if other.kind == "claim" and other.run_id == leftover.run_id]
            yield from _remove_of_run(store, leftover.run_id, claims, wanted)


def _remove_of_run(store: Store, run_id: str, claims: Sequence[Leftover], wanted: GcOptions) -> Iterator[Leftover]:
    """Under the run's claim: dead claims go when it is taken, the rest is looked for anew."""
    existed = store.folder(run_id).exists()
    try:
        with store.claim(run_id) as folder:
            record = store.load(run_id)
            status = None if record is None else record.status
            found = list(_of_run(folder, run_id, status, wanted, time_on(store.out_dir)))
            gone = [leftover for leftover in found if _delete(Path(leftover.path))]
            if not existed and folder.exists():
                folder.rmdir()
    except LeaseHeld:
        return
    yield from gone
    yield from (claim for claim in claims if not Path(claim.path).exists())


def _delete(path: Path) -> bool:
    """Whether it is gone now."""
    with readable_errors("remove", path):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            return False  # somebody else was first
    return True


def _leftover(kind: str, path: Path, run_id: str | None = None) -> Leftover:
    return Leftover(kind, str(path), sum(_stat(p).st_size for p in _files(path)), run_id)


def _age(path: Path, now: float) -> float:
    """Seconds from the last change of anything in it to `now`, by the clock of the file system."""
    return now - max(_stat(p).st_mtime for p in (path, *_files(path)))


def _files(path: Path) -> Iterator[Path]:
    """The file, or all files below the folder."""
    if path.is_dir() and not path.is_symlink():
        for folder, _, names in os.walk(path):
            yield from (Path(folder, name) for name in names)
    else:
        yield path


def _stat(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except FileNotFoundError:
        return os.stat_result([0] * 10)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _folders(folder: Path) -> list[Path]:
    """Real ones: what lies behind a link is not ours to remove."""
    return [path for path in _entries(folder) if path.is_dir() and not path.is_symlink()]


def _print(found: Sequence[Leftover], removed: bool) -> None:
    if not found:
        say("Nothing was removed." if removed else "Nothing was left over.")
        return
    rows = []
    for kind, words in KINDS.items():
        own = [leftover for leftover in found if leftover.kind == kind]
        if own:
            rows.append([kind, f"{len(own):,}", size(sum(leftover.bytes for leftover in own)), words, own[0].path])
    print_table(["what", ">count", ">size", "of", "for example"], rows)
    total = size(sum(leftover.bytes for leftover in found))
    say(f"{total} freed." if removed else f"{total} in all. Nothing was removed: `peftbench gc --yes` does it.")
