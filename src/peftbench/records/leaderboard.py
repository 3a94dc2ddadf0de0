"""leaderboard.csv: one row a run, made from the records and never edited.

Making it again costs little even with many records, because rows of files that have not changed since are kept
(`peftbench.cache`). The CSV may be deleted at any time.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peftbench.cache import Cache, code_stamp
from peftbench.cache import stamp as stamp_of
from peftbench.files import readable_errors, write_atomic
from peftbench.records.ids import is_outdated, variant
from peftbench.records.record import Record
from peftbench.records.seen import seen_before
from peftbench.records.stamps import Stamps, newest, signature, stamps, stamps_of
from peftbench.records.store import Store

log = logging.getLogger(__name__)

Row = dict[str, Any]

# fmt: off
_BEFORE_SCORES = [
    "run_id", "status", "model", "method", "task", "subset", "protocol", "shots", "data_seed", "seed", "metric",
    "score", "f1_macro", "f1_weighted", "accuracy",
]
_AFTER_SCORES = [
    "trainable_params", "train_seconds", "eval_seconds", "total_seconds", "train_peak_mib", "eval_peak_mib",
    "step_flops", "saved_bytes", "tokens_per_second", "device", "n_devices", "precision", "git_sha", "dirty",
    "data_sha", "versions", "created", "train_cpu_seconds", "tuning_trials", "tuning_seconds", "seen",
    "test_texts", "tricks", "noise", "model_revision",
]
# fmt: on

NONE = "none"
"""In the column `tricks`, of runs without any."""
CELL = ("model", "method", "task", "subset", "protocol", "shots", "metric", "variant")
"""What runs share that are repetitions of each other: all but the two seeds."""

_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r\n]")
_LOCK_SECONDS = 60


HIDDEN = (
    "variant", "reason", "steps", "planned_steps", "epochs", "batch_size", "micro_batch", "max_length",
    "import_seconds", "cpu_seconds", "process_peak_mib", "gpu_peak_mib", "total_params", "phases", "draw_sha",
    "warnings", "identity", "outdated", "shared",
)  # fmt: skip
"""What a row knows beyond the CSV's columns: which runs are repetitions, why one failed, what a run costs, how many
warnings its diagnosis has, and whether a part of it would give other numbers today."""


MEASURED = (
    "train_seconds", "eval_seconds", "total_seconds", "train_cpu_seconds", "tokens_per_second", "train_peak_mib",
    "eval_peak_mib",
)  # fmt: skip
"""What is not said of a run that read a part of its work (`trainer.reuse_frozen`) or shared it with others
(`trainer.together`): it is no measure of the method."""


def row(record: Record) -> Row:
    """The leaderboard's row of one run, the hidden columns included."""
    env = record.environment
    versions = env.get("versions") or {}
    parameters = record.parameters
    found = {
        **record.scores,
        **{name: getattr(record, name) for name in _BEFORE_SCORES if hasattr(record, name)},
        "trainable_params": parameters.get("module", 0) + parameters.get("head", 0) if parameters else None,
        **{f"{phase}_seconds": record.seconds.get(phase) for phase in ("train", "eval", "total")},
        "train_cpu_seconds": record.cpu_seconds.get("train"),
        **{name: record.memory.get(name) for name in ("train_peak_mib", "eval_peak_mib", "saved_bytes")},
        **{name: record.compute.get(name) for name in ("step_flops", "tokens_per_second")},
        **{name: env.get(name) for name in ("device", "n_devices", "precision", "git_sha", "dirty")},
        "data_sha": record.data.get("sha256"),
        "versions": " ".join(f"{package}={version}" for package, version in sorted(versions.items())),
        "created": record.created,
        "tuning_trials": record.tuning.get("trials"),
        "tuning_seconds": record.tuning.get("seconds"),
        "seen": seen_before(record.config, record.task, record.subset),
        "test_texts": " ".join(record.data.get("test_texts") or ()) or None,
        "tricks": "+".join((record.config.get("method") or {}).get("trick") or ()) or NONE,
        "model_revision": record.model_info.get("revision"),
        "noise": (record.config.get("protocol") or {}).get("noise") or 0,
        "variant": variant(record.config, record.data.get("sha256") or "", record.identity),
        "identity": record.identity,
        "outdated": is_outdated(record.config, record.identity),
        "reason": record.reason,
        "phases": {phase: round(seconds, 3) for phase, seconds in record.seconds.items() if phase != "total"},
        "draw_sha": record.draw.get("sha256"),
        "shared": bool(record.together),
        "warnings": len(record.diagnosis.get("warnings") or ()),
        **_cost(record),
    }
    unmeasured = record.together or record.compute.get("frozen_blocks")
    return {**found, **dict.fromkeys(MEASURED), "phases": {}} if unmeasured else found


def _cost(record: Record) -> Row:
    """What an estimate of the next run's cost needs to know (`peftbench.inspect.estimate`)."""
    trainer, memory = record.config.get("trainer") or {}, record.memory
    reserved = [memory.get(name) or 0.0 for name in ("train_peak_reserved_mib", "eval_peak_reserved_mib")]
    return {
        "steps": record.compute.get("steps"),
        "planned_steps": trainer.get("steps"),
        **{name: trainer.get(name) for name in ("epochs", "batch_size", "micro_batch", "max_length")},
        "import_seconds": record.seconds.get("import"),
        "cpu_seconds": sum(s for phase, s in record.cpu_seconds.items() if phase != "import") or None,
        "process_peak_mib": memory.get("process_peak_mib"),
        "gpu_peak_mib": max(reserved) or None,
        "total_params": record.parameters.get("total"),
    }


def columns(rows: Iterable[Row]) -> list[str]:
    """The CSV's columns: the fixed ones, with the tasks' own metrics after the common metrics."""
    fixed = {*_BEFORE_SCORES, *_AFTER_SCORES, *HIDDEN}
    own = sorted({name for r in rows for name in r} - fixed)
    return [*_BEFORE_SCORES, *own, *_AFTER_SCORES]


def rows(records: Iterable[Record]) -> list[Row]:
    """Rows in the order of the leaderboard."""
    return sorted((row(r) for r in records), key=_order)


def _order(r: Row) -> tuple[Any, ...]:
    return (
        r["task"],
        r["subset"],
        r["protocol"],
        str(r["shots"]).zfill(9),
        r["model"],
        r["method"],
        r["created"],
        r["run_id"],
    )


def current_rows(store: Store) -> list[Row]:
    """Rows of all sound records as they are now. Leaves the folder as it is (but a damaged record to quarantine)."""
    return sorted(_rows(store, stamps(store)), key=_order)


def left_out_words(outdated: int) -> str:
    """How a view says that it shows only runs that would be the same today."""
    return f"{outdated:,} run{'s' if outdated != 1 else ''} of older results versions left out"


def newest_rows(store: Store, limit: int) -> list[Row]:
    """Like `current_rows`, but of the records that were written last alone: enough where any sample will do."""
    return sorted(_rows(store, newest(stamps(store), limit)), key=_order)


def rows_of(store: Store, run_ids: Iterable[str]) -> dict[str, Row]:
    """Run id -> its row as it is now, for those of these runs that have a sound record."""
    return {r["run_id"]: r for r in _rows(store, stamps_of(store, run_ids))}


def _rows(store: Store, stamped: Stamps) -> list[Row]:
    """The rows of the sound ones of these records; each record is decoded once, as long as it and the code stay."""
    memory, code = Cache("rows"), code_stamp("records", "config", "stages", "formulations", "tuners")
    keys = {name: [code, stamp] for name, stamp in stamped.items()}
    known = dict(zip(keys, memory.get_many([*keys.values()]), strict=True))
    made: dict[str, Row] = {}
    for name in [name for name, found in known.items() if found is None]:
        if (record := store.read(store.records / name)) is not None:  # one at a time: together they fill the memory
            made[name] = row(record)
    memory.put_many((keys[name], found) for name, found in made.items())
    return [found for found in {**known, **made}.values() if found is not None]


def rebuild(store: Store) -> Path:
    """Write `leaderboard.csv` from the records; one process at a time, and never half a file.

    Whoever waited for another process that has already seen the newest record has nothing left to do.

    Raises:
        UsageError: the folder cannot be written or the disk is full. The records are intact.
    """
    from filelock import FileLock, Timeout

    path, written = store.out_dir / "leaderboard.csv", Cache("leaderboards")
    if _due is not None and time.monotonic() < _due.get(store.out_dir, 0):
        return path
    began = time.monotonic()
    with readable_errors("write", path):
        store.out_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(store.out_dir / ".leaderboard.lock", timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            log.warning("%s is held by another process and was not brought up to date; the next run will do it.", path)
            return path
        except NotImplementedError:
            pass  # no locks on this file system: others may write too, so look again after each writing
    try:
        while True:
            stamped = stamps(store)
            state = signature(stamped)
            if written.get(stamp_of([path])) == state:
                break
            write_atomic(path, to_csv(sorted(_rows(store, stamped), key=_order)), durable=False)
            written.put(stamp_of([path]), state)
            if lock.is_locked or state == signature(stamps(store)):
                break
    finally:
        lock.release()
    if _due is not None:
        _due[store.out_dir] = time.monotonic() + SPARE * (time.monotonic() - began)
    return path


def refresh(store: Store) -> None:
    """`rebuild` at the end of a run: what is filed is filed, whatever becomes of the table that is made from it."""
    try:
        rebuild(store)
    except Exception as error:
        log.warning(
            "%s was not brought up to date (%s: %s). The records are intact; the next run makes it anew.",
            store.out_dir / "leaderboard.csv",
            type(error).__name__,
            error,
        )


def catch_up(store: Store, run_id: str) -> None:
    """`refresh` if the table is older than that run's record: who filed it may have been killed before the table."""
    with suppress(OSError):
        if (store.out_dir / "leaderboard.csv").stat().st_mtime_ns > store.path(run_id).stat().st_mtime_ns:
            return
    refresh(store)


SPARE = 20
_due: dict[Path, float] | None = None
"""While runs follow each other in this process: out_dir -> when its table may be rebuilt again."""


@contextmanager
def rebuilt_sparingly() -> Iterator[None]:
    """Around many runs in one process: `rebuild` then takes no more than a part in `SPARE` of the time.

    One rebuild costs time in proportion to the records there are, so one after each of n runs would cost n squared. At
    the end of the block each table is brought up to date.
    """
    global _due
    outer, _due = _due, {}
    try:
        yield
    finally:
        touched, _due = _due, outer
        for out_dir in touched:
            refresh(Store(out_dir))


def to_csv(rows: Sequence[Row], names: Sequence[str] | None = None) -> bytes:
    """RFC 4180 bytes (UTF-8, CRLF). Text that a spreadsheet would run as a formula is made inert by a leading quote."""
    names = names or columns(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_cell(name) for name in names])
    writer.writerows(
        [v if type(v) in _NUMBERS else _cell(v) for v in map(r.get, names)]  # most cells are numbers
        for r in rows
    )
    return text.getvalue().encode("utf-8", "backslashreplace")


_NUMBERS = frozenset({float, int, type(None)})


def _cell(value: Any) -> Any:
    if value is True or value is False:
        return "true" if value else "false"
    return "'" + value if isinstance(value, str) and _FORMULA.match(value) else value


AVERAGED = (
    "score",
    "train_seconds",
    "train_cpu_seconds",
    "eval_seconds",
    "total_seconds",
    "train_peak_mib",
    "eval_peak_mib",
    "tokens_per_second",
    "tuning_trials",
    "tuning_seconds",
)


def group(rows: Iterable[Row]) -> list[Row]:
    """Means over the seeds: one row a cell (`CELL`), of runs that are done; `failed` counts the others.

    `n` runs; `draws` and `seeds` distinct data and training seeds; for each of `AVERAGED` the mean, and for the score
    its standard deviation over runs (n - 1 in the denominator; None for a single run), least and greatest value.
    """
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for r in rows:
        cells.setdefault(tuple(r.get(name) for name in CELL), []).append(r)
    return [_mean_row(dict(zip(CELL, key, strict=True)), members) for key, members in cells.items()]


def _mean_row(cell: Row, members: Sequence[Row]) -> Row:
    done = [r for r in members if r["status"] == "done"]
    means = {name: [r[name] for r in done if r.get(name) is not None] for name in AVERAGED}
    scores = means["score"]
    return {
        **cell,
        "n": len(done),
        "failed": len(members) - len(done),
        "draws": len({r["data_seed"] for r in done}),
        "seeds": len({r["seed"] for r in done}),
        **{name: statistics.fmean(values) if values else None for name, values in means.items()},
        "score_sd": statistics.stdev(scores) if len(scores) > 1 else None,
        "score_min": min(scores, default=None),
        "score_max": max(scores, default=None),
        "trainable_params": next((r["trainable_params"] for r in done), None),
        "seen": members[0].get("seen"),
        "shared": any(r.get("shared") for r in done),
        **{name: members[0].get(name) for name in ("test_texts", "tricks", "noise")},
    }
