"""Everything that the report's page knows, as one dictionary for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from peftbench.errors import UsageError
from peftbench.figures import plot
from peftbench.figures.report.detail import detail
from peftbench.records.diagnosis import seed_outliers
from peftbench.records.leaderboard import Row
from peftbench.records.seen import ABOUT, remarks
from peftbench.records.store import Store
from peftbench.tables.standings import Standing, Standings
from peftbench.version import __version__

DETAILS = 200
"""Runs with a page of their own, unless asked for otherwise: each takes some 20 kB of the file."""

CELL_COLUMNS = (
    "method", "score", "low", "high", "ties", "best", "task", "subset", "shots", "model", "protocol", "metric", "runs",
    "draws", "seeds", "failed", "outliers", "trainable_params", "train_seconds", "train_peak_mib", "covers", "ids",
    "seen", "test_texts",
)  # fmt: skip
RUN_COLUMNS = (
    "run_id", "status", "method", "score", "task", "subset", "shots", "model", "protocol", "metric", "data_seed",
    "seed", "trainable_params", "train_seconds", "total_seconds", "train_peak_mib", "warnings", "device", "precision",
    "created", "reason", "seen", "test_texts",
)  # fmt: skip
MOST_VIEWS = 40
"""Pictures of one plot: each takes a tenth of a second and some 30 kB."""

Data = dict[str, Any]


def payload(store: Store, rows: Sequence[Row], details: int = DETAILS) -> Data:
    """Data of the page.

    Args:
        rows: of the runs that the report is about.
        details: how many runs get a page of their own: one of each cell first, then a second of each ...
    """
    standings = Standings(store, rows)
    cells = standings.with_ties()
    drawn, missing = _plots(standings, store)
    labels = {cell.variant: cell.label for cell in cells}
    named = [{**row, "method": labels[row["variant"]]} for row in rows]
    position = {row["run_id"]: i for i, row in enumerate(rows)}
    failed = [row["run_id"] for row in rows if row["status"] != "done"]
    chosen = [*_spread(cells), *failed][:details]
    pages = {run_id: detail(store, record) for run_id in chosen if (record := store.load(run_id)) is not None}
    notes = [*standings.notes, *missing, *remarks(rows)]
    if len(pages) < len(rows):
        notes.append(f"{len(pages):,} of {len(rows):,} runs have a page of their own here; --details N asks for more.")
    return {
        "version": __version__,
        "newest": max((row["created"] for row in rows), default=""),
        "notes": notes,
        "cells": {"columns": CELL_COLUMNS, "rows": [_cell_row(cell, position) for cell in cells]},
        "runs": {"columns": RUN_COLUMNS, "rows": [[row.get(name) for name in RUN_COLUMNS] for row in named]},
        "details": pages,
        "plots": drawn,
        "colours": {label: look["colour"] for label, look in plot.looks(standings).items()},
    }


def _cell_row(cell: Standing, position: dict[str, int]) -> list[Any]:
    """One line of the leaderboard; its last entry names its runs by their place in the table of runs."""
    runs = cell.runs
    outliers = seed_outliers([r["score"] for r in runs])
    values = {
        **cell.block._asdict(),
        "method": cell.label,
        "score": cell.mean,
        "low": cell.low,
        "high": cell.high,
        "ties": cell.letters,
        "best": cell.best,
        "runs": len(runs),
        "draws": len({r["data_seed"] for r in runs}),
        "seeds": len({r["seed"] for r in runs}),
        "failed": cell.failed,
        "outliers": [position[runs[i]["run_id"]] for i in outliers],
        "covers": cell.covers,
        **{name: runs[0].get(name) if runs else None for name in ABOUT},
        "ids": [position[r["run_id"]] for r in runs],
        **{name: _mean(runs, name) for name in ("trainable_params", "train_seconds", "train_peak_mib")},
    }
    return [values[name] for name in CELL_COLUMNS]


def _mean(runs: Sequence[Row], name: str) -> float | None:
    known = [r[name] for r in runs if r[name] is not None]
    return sum(known) / len(known) if known else None


def _spread(cells: Sequence[Standing]) -> list[str]:
    """Run ids: the first of each cell, the second of each ..."""
    rounds = zip_longest(*([r["run_id"] for r in cell.runs] for cell in cells))
    return [run_id for ids in rounds for run_id in ids if run_id is not None]


def _plots(standings: Standings, store: Store) -> tuple[list[Data], list[str]]:
    """Every plot that these runs can fill, with its pictures, and why the others are not there."""
    drawn, missing = [], []
    metrics = Counter(cell.block.metric for cell in standings.cells if cell.runs).most_common(1)
    for kind in plot.names():
        if not plot.find(kind).in_report:
            continue
        part = standings.only(metrics[0][0]) if kind == "pareto" and metrics else standings  # a mean needs one metric
        try:
            made = plot.make(kind, part, store, all_panels=True)
            drawn.append(_pictures(made, standings.notes))
        except UsageError as error:
            missing.append(f"No plot `{kind}`: {error}")
    return drawn, missing


def _pictures(made: Data, said: Sequence[str]) -> Data:
    """`kind`, `title`, `notes` without those `said` elsewhere, and `views`: a name and an SVG each."""
    views = plot.find(made["kind"]).views(made)
    notes = [note for note in made["notes"] if note not in said]
    if len(views) > MOST_VIEWS:
        notes.append(f"{MOST_VIEWS} of {len(views):,} parts are here; filters (--task, --subset ...) choose others.")
    pictures = [
        {"name": name, "svg": plot.inline_svg({**data, "title": "", "notes": []})} for name, data in views[:MOST_VIEWS]
    ]
    return {"kind": made["kind"], "title": made["title"], "notes": notes, "views": pictures}
