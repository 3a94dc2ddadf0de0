"""The numbers behind the board's sentences: who is told apart from whom, what tuning changed, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

from peftbench.errors import UsageError
from peftbench.records.leaderboard import Row
from peftbench.records.store import Store
from peftbench.tables.cells import TableCell
from peftbench.tables.estimates import TUNING
from peftbench.tables.standings import Standings
from peftbench.tables.table import Table
from peftbench.views.compare.analysis import ALPHA

if TYPE_CHECKING:
    from peftbench.statistics import Cell, Summary

MOST_RUNS = 10_000
"""Runs of a track whose test items are read."""

Grid = dict[str, dict[str, TableCell]]
"""Column -> row -> a complete cell of scores."""


@dataclass(frozen=True)
class Gain:
    """Tuned minus as given, of one row: in one column, or the mean over columns (`column` is empty then).

    Attributes:
        p: by Holm over all rows and columns; of the means, over all rows. None where both tracks are the same runs.
    """

    row: str
    column: str
    summary: Summary
    p: float | None


@dataclass(frozen=True)
class Pairs:
    """How far the rows of one column are told apart.

    Attributes:
        apart: pairs that Holm's correction over all `pairs` leaves below 5 %.
        best: the best row; `tied`: rows that are not told apart from it.
        letters: tie groups by row.
    """

    pairs: int
    apart: int
    best: str
    tied: list[str]
    letters: dict[str, str]


@dataclass
class Reading:
    """A board, read.

    Attributes:
        given, tuned: complete cells of the two tracks.
        ranks: of each track, average rank over the columns that every row in it has, best first.
        pairs: of each track, by column.
        gains, means: what tuning changed, by row and column, and on the average over all columns.
    """

    table: Table
    given: Grid
    tuned: Grid
    ranks: dict[str, dict[str, float]] = field(default_factory=dict)
    pairs: dict[str, dict[str, Pairs]] = field(default_factory=dict)
    gains: list[Gain] = field(default_factory=list)
    means: list[Gain] = field(default_factory=list)

    @property
    def tracks(self) -> dict[str, Grid]:
        """By name, the tuned one first."""
        return {"tuned": self.tuned, "as given": self.given}


def read(table: Table, store: Store) -> Reading:
    """Everything that the page says.

    Raises:
        UsageError: the table has no tuned cells, or no column has two rows with scores in both tracks.
    """
    if not any(cell.spec.tune for cell in table.cells.values()):
        raise UsageError(f"board: table {table.name} tunes nothing (no `tune` with a `search`). docs/board.md")
    found = Reading(table, _grid(table, tuned=False), _grid(table, tuned=True))
    cells = Cells(store)
    for name, grid in found.tracks.items():
        found.ranks[name] = _ranks(grid)
        found.pairs[name] = {column: _pairs(cells, rows) for column, rows in grid.items() if len(rows) > 1}
    if not all(found.pairs.values()):
        raise UsageError(
            f"board: no column of table {table.name} has two rows with all their runs, tuned and as given. "
            f"First: peftbench table {table.name} --run"
        )
    found.gains, found.means = _gains(cells, found)
    return found


class Cells:
    """The statistics' cells, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, ...], Cell] = {}

    def of(self, cell: TableCell) -> Cell:
        """The runs of a table's cell with their predictions."""
        from peftbench import statistics

        runs = tuple(sorted(row["run_id"] for row in cell.groups[0].runs))
        if runs not in self._known:
            records = [record for run in runs if (record := self._store.load(run)) is not None]
            self._known[runs] = statistics.load_cell(self._store, records, cell.groups[0].metric)
        return self._known[runs]


def _grid(table: Table, tuned: bool) -> Grid:
    """One track: the cells of scores in the panel that is tuned, or in the one that is not."""
    scores = {key: c for key, c in table.cells.items() if c.spec.metric not in TUNING}
    panels = {panel for (panel, _, _), cell in scores.items() if cell.spec.tune}
    grid: Grid = {}
    for (panel, row, column), cell in scores.items():
        if (panel in panels) == tuned and cell.complete and not cell.groups[0].is_cost and len(cell.groups) == 1:
            grid.setdefault(column, {})[row] = cell
    return grid


def common(grid: Grid) -> list[str]:
    """The rows that every column has."""
    columns = list(grid.values())
    return [row for row in columns[0] if all(row in rows for rows in columns)] if columns else []


def _ranks(grid: Grid) -> dict[str, float]:
    from peftbench import statistics

    rows = common(grid)
    if len(rows) < 2:
        return {}
    scores = [[cells[row].value for row in rows] for cells in grid.values()]
    ranks = statistics.average_ranks([[float(v or 0.0) for v in line] for line in scores])
    return dict(sorted(zip(rows, map(float, ranks), strict=True), key=lambda item: item[1]))


def _pairs(cells: Cells, rows: Mapping[str, TableCell]) -> Pairs:
    from peftbench import statistics

    ties = statistics.ties({row: cells.of(cell) for row, cell in rows.items()})
    pairs = list(combinations(ties.letters, 2))
    best = max(rows, key=lambda row: rows[row].value or 0.0)
    tied = [row for row in ties.letters if row in ties.best and row != best]
    return Pairs(len(pairs), sum(ties.p[pair] <= ALPHA for pair in pairs), best, tied, ties.letters)


def _gains(cells: Cells, found: Reading) -> tuple[list[Gain], list[Gain]]:
    """Of each row in each column, and of the rows that have all columns in both tracks on their average."""
    from peftbench import statistics

    both = {
        (row, column): (tuned, found.given[column][row])
        for column, rows in found.tuned.items()
        for row, tuned in rows.items()
        if row in found.given.get(column, {}) and tuned.tuning
    }
    gains = [
        _gain(row, column, statistics.difference(cells.of(tuned), cells.of(given)), tuned, given)
        for (row, column), (tuned, given) in both.items()
    ]
    columns = list(found.tuned)
    means = []
    for row in dict.fromkeys(row for row, _ in both):
        pairs = [both[row, column] for column in columns if (row, column) in both]
        if len(pairs) == len(columns) > 1:
            ours, others = ([cells.of(pair[i]) for pair in pairs] for i in (0, 1))
            difference = statistics.difference(ours, others)
            means.append(Gain(row, "", difference, None if all(_same(*pair) for pair in pairs) else difference.p))
    return _adjusted(gains), _adjusted(means)


def _gain(row: str, column: str, difference: Summary, tuned: TableCell, given: TableCell) -> Gain:
    return Gain(row, column, difference, None if _same(tuned, given) else difference.p)


def _same(tuned: TableCell, given: TableCell) -> bool:
    """Whether both tracks have the same runs, since nothing that was tried was better on dev."""
    return {r["run_id"] for r in tuned.groups[0].runs} == {r["run_id"] for r in given.groups[0].runs}


def _adjusted(gains: Sequence[Gain]) -> list[Gain]:
    """With Holm's correction over those that have a p-value."""
    from peftbench import statistics

    adjusted: Iterator[float] = iter(statistics.holm([g.p for g in gains if g.p is not None]))
    return [g if g.p is None else replace(g, p=next(adjusted)) for g in gains]


def standings(grid: Grid, store: Store, columns: Sequence[str] = ()) -> Standings:
    """A track as plots take it: each row's runs by the row's label, whatever settings were chosen in a column."""
    labels: dict[str, str] = {}
    rows: dict[str, Row] = {}
    for column, cells in grid.items():
        if columns and column not in columns:
            continue
        for label, cell in cells.items():
            for run in cell.groups[0].runs:
                rows[run["run_id"]] = {**run, "metric": cell.groups[0].metric, "score": run.get(cell.groups[0].metric)}
                labels[run["variant"]] = label
    return Standings(store, list(rows.values()), {r["method"] for r in rows.values()}, labels, MOST_RUNS)


def effort(table: Table, store: Store) -> dict[str, float]:
    """`runs` scored, `searches`, their `trials` and `dev` scores, and `cpu_hours` of all of them, without imports."""
    runs = {
        r["run_id"]: r for c in table.cells.values() if c.spec.metric not in TUNING for g in c.groups for r in g.runs
    }
    studies = {
        r["run_id"]: record.tuning
        for c in table.cells.values()
        if c.spec.metric in TUNING
        for g in c.groups
        for r in g.runs
        if (record := store.load(r["run_id"])) is not None
    }
    seconds = sum(r.get("cpu_seconds") or 0.0 for r in runs.values())
    seconds += sum(t.get("cpu_seconds") or 0.0 for t in studies.values())
    trials = sum(t["trials"] for t in studies.values())
    return {"runs": len(runs), "searches": len(studies), "trials": trials, "cpu_hours": seconds / 3600}
