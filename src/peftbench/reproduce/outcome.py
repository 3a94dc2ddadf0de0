"""Old and new side by side, with the tolerance that applies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peftbench.records.leaderboard import current_rows, row
from peftbench.records.predictions import read_predictions
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.reproduce.checks import EXACT

DEFAULT_POINTS = 2.0
"""Tolerance for rounding where no other seeds tell how far apart equal experiments lie."""


@dataclass(frozen=True)
class ComparedValue:
    """One compared value. `tolerance` None: shown, not judged."""

    name: str
    old: Any
    new: Any
    difference: float | None
    tolerance: float | None
    ok: bool


def tolerance_points(store: Store, record: Record) -> tuple[float, str]:
    """Points by which scores may differ where rounding differs, and where the number comes from.

    Training magnifies rounding up to the point where the run is like one with another training seed, and no further.
    Two such runs differ by less than 2 sqrt(2) standard deviations in 95 of 100 cases. Other draws do not count.
    """
    mine = row(record)
    by_draw: dict[str, list[float]] = {}
    for r in current_rows(store):
        if r["variant"] == mine["variant"] and r["status"] == "done" and r["score"] is not None:
            by_draw.setdefault(r["draw_sha"], []).append(r["score"])
    pairs = [(statistics.variance(scores), len(scores) - 1) for scores in by_draw.values() if len(scores) > 1]
    freedom = sum(df for _, df in pairs)
    spread = math.sqrt(sum(v * df for v, df in pairs) / freedom) if freedom >= 2 else 0.0
    if spread > 0:
        return 2 * math.sqrt(2) * spread, f"2 sqrt(2) x the standard deviation between training seeds, {spread:.2g}"
    return DEFAULT_POINTS, "the default, as there are not enough runs with other training seeds (--tolerance sets it)"


def lines(
    old: Record, new: Record, old_store: Store, new_store: Store, level: str, points: float
) -> list[ComparedValue]:
    """Everything that is compared. With `level` exact all must be equal; else scores may differ by `points`."""
    exact = level == EXACT
    allowed = 0.0 if exact else points
    found = [_same("status", old.status, new.status)]
    for name in sorted({*old.scores, *new.scores}):
        found.append(_number(name, old.scores.get(name), new.scores.get(name), allowed))
    found.append(_number("dev score", old.dev_score, new.dev_score, 0.0 if exact else None))
    found += _predictions(old, new, old_store, new_store, exact)
    found.append(_number("last training loss", _last(old), _last(new), 0.0 if exact else None))
    before, after = (r.parameters.get("module", 0) + r.parameters.get("head", 0) for r in (old, new))
    found.append(_number("trainable parameters", before, after, 0.0))
    found.append(_number("steps", old.compute.get("steps"), new.compute.get("steps"), 0.0))
    found.append(_same("model revision", old.model_info.get("revision"), new.model_info.get("revision")))
    found.append(_number("seconds in all", old.seconds.get("total"), new.seconds.get("total"), None))
    found.append(_number("train peak MiB", old.memory.get("train_peak_mib"), new.memory.get("train_peak_mib"), None))
    return [line for line in found if (line.old, line.new) != (None, None)]


def _same(name: str, old: Any, new: Any) -> ComparedValue:
    return ComparedValue(name, old, new, None, 0.0, old == new)


def _number(name: str, old: float | None, new: float | None, tolerance: float | None) -> ComparedValue:
    if old is None or new is None:
        return ComparedValue(name, old, new, None, tolerance, tolerance is None or old == new)
    difference = new - old
    return ComparedValue(name, old, new, difference, tolerance, tolerance is None or abs(difference) <= tolerance)


def _last(record: Record) -> float | None:
    losses = [loss for loss in record.curves.get("loss") or () if loss is not None]
    return losses[-1] if losses else None


def _predictions(old: Record, new: Record, old_store: Store, new_store: Store, exact: bool) -> Iterator[ComparedValue]:
    """How many answers changed: labels and numbers, not their scores."""
    answers = []
    for record, store in ((old, old_store), (new, new_store)):
        if not record.predictions.get("file"):
            return
        path = store.folder(record.run_id) / record.predictions["file"]
        answers.append({i.id: i.prediction for i in read_predictions(path, record.predictions.get("sha256"))})
    before, after = answers
    changed = sum(before.get(name, _ABSENT) != after.get(name, _ABSENT) for name in before.keys() | after.keys())
    yield ComparedValue(
        f"predictions changed of {len(before)}", 0, changed, changed, 0 if exact else None, not (exact and changed)
    )


_ABSENT = object()


def is_within(compared: Sequence[ComparedValue]) -> bool:
    """Whether every judged value is within its tolerance."""
    return all(line.ok for line in compared)


def print_lines(compared: Sequence[ComparedValue]) -> None:
    """The table for a person."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from peftbench.views.summary import printable

    console = Console()
    if not console.is_terminal:
        console = Console(width=1000, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "old", "new", "difference", "tolerance", ""):
        table.add_column(name, justify="right" if name in ("old", "new", "difference") else "left", overflow="fold")
    for line in compared:
        tolerance = "" if line.tolerance is None else "exact" if line.tolerance == 0 else f"{line.tolerance:.3g}"
        verdict = "" if line.tolerance is None else "ok" if line.ok else "DIFFERS"
        difference = "" if line.difference is None else f"{line.difference:+.6g}" if line.difference else "0"
        cells = (line.name, _show(line.old), _show(line.new), difference, tolerance, verdict)
        table.add_row(*(Text(printable(cell, console.encoding)) for cell in cells))
    console.print(table)


def _show(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def as_dicts(compared: Sequence[ComparedValue]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(line) for line in compared]
