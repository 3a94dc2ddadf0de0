"""How many runs a table lacks, and about how long they take: as those of their row that are there."""

from __future__ import annotations

import statistics
from collections import defaultdict

from peftbench.measure.clock import duration
from peftbench.tables.cells import TableCell
from peftbench.tables.commands import EXPERIMENT
from peftbench.tables.table import Table


def lacking(table: Table) -> str:
    """In words; "" if nothing is missing.

    Cells that show different metrics of the same runs count once. A run takes as long as the median of its row; of rows
    without a finished run, and of what a search has still to try, no time is said.
    """
    every = [*table.cells.values(), *table.hidden]
    seconds: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for cell in every:
        for run in (run for group in cell.groups for run in group.runs):
            if run.get("total_seconds") is not None:
                seconds[cell.spec.row][run["run_id"]] = run["total_seconds"]
    unfilled = {str(sorted(c.fill.items())): c for c in every if c.fill is not None and c.done < c.asked}
    runs = [(c.spec.row, c.asked - c.done) for c in unfilled.values() if not _is_search(c)]
    counts = [("run", "runs", sum(count for _, count in runs))]
    counts.append(("search", "searches", sum(map(_is_search, unfilled.values()))))
    words = [f"{count:,} {one if count == 1 else more}" for one, more, count in counts if count]
    known = [(count, statistics.median(seconds[row].values())) for row, count in runs if seconds[row]]
    if known:
        some = sum(count for count, _ in known)
        total = duration(sum(count * each for count, each in known))
        words.append(f"about {total} for {some:,} of the runs, one after the other, as earlier ones of their rows took")
    return ", ".join(words)


def _is_search(cell: TableCell) -> bool:
    """Whether its command is a search whose choice is not known yet."""
    return bool(cell.spec.tune) and EXPERIMENT not in (cell.fill or ())
