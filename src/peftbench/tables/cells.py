"""From records to the cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peftbench.errors import UsageError
from peftbench.tables.commands import Sweep, cell_sweep
from peftbench.tables.estimates import Estimates, Group
from peftbench.tables.runs import RunFinder, is_done
from peftbench.tables.spec import CellSpec
from peftbench.tables.verdict import Verdict

Key = tuple[str, str, str]
"""Panel, row and column of a cell."""


@dataclass
class TableCell:
    """A cell of a finished table.

    Attributes:
        groups: the finished runs behind it: one group, or one for each column that it is the mean of.
        asked: number of runs that make it complete; 0 if this version cannot make it.
        summary: `statistics.Summary` as a dictionary; empty where there is nothing yet.
        problem: why it is empty or incomplete.
        fill: the sweep of its own runs; None if this version cannot make them, or for a mean over columns.
        letters: tie group within panel and column; "a" is that of the best.
        best: best, or not told apart from the best.
        tuning: what chose its settings, as `Record.tuning` has it; empty for settings as given.
    """

    spec: CellSpec
    groups: list[Group] = field(default_factory=list)
    asked: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    fill: Sweep | None = None
    verdict: Verdict | None = None
    letters: str = ""
    best: bool = False
    tuning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The mean."""
        return self.summary.get("mean")

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval; None where no spread is known."""
        return self.summary.get("low")

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval."""
        return self.summary.get("high")

    @property
    def done(self) -> int:
        """Finished runs."""
        return sum(len(g.runs) for g in self.groups)

    @property
    def complete(self) -> bool:
        """Whether every run that was asked for is there."""
        return self.value is not None and self.done == self.asked


def own_cell(spec: CellSpec, finder: RunFinder, estimates: Estimates) -> TableCell:
    """A cell of runs of its own."""
    cell = TableCell(spec, problem=spec.missing)
    if spec.missing:
        return cell
    wanted = finder.wanted(spec)
    rows = finder.find(wanted)
    done = tuple(filter(is_done, rows))
    cell.fill, cell.asked = cell_sweep(spec.run, spec.repeat), len(wanted.seeds)
    if len(done) < cell.asked:
        failed = [r["status"] for r in rows if not is_done(r)]
        counts = "".join(f", {failed.count(status)} {status}" for status in sorted(set(failed)))
        cell.problem = f"{len(done)} of {cell.asked} runs{counts}"
    if done:
        cell.groups = [Group(done[0]["metric"] if spec.metric == "score" else spec.metric, done)]
        _summarise(cell, estimates)
    return cell


def mean_cell(spec: CellSpec, cells: Mapping[Key, TableCell], estimates: Estimates) -> TableCell:
    """The mean over other columns of the row; empty as long as one of them is."""
    parts = [cells[spec.panel, spec.row, column] for column in spec.mean_of]
    cell = TableCell(spec, groups=[g for p in parts for g in p.groups], asked=sum(p.asked for p in parts))
    impossible = [p.problem for p in parts if not p.asked]
    there = sum(p.value is not None for p in parts)
    if spec.missing or impossible:
        cell.asked, cell.groups, cell.problem = 0, [], spec.missing or impossible[0]
    elif there < len(parts):
        cell.problem = f"{there} of {len(parts)} columns"
    else:
        cell.problem = "" if cell.done == cell.asked else f"{cell.done} of {cell.asked} runs"
        _summarise(cell, estimates)
    return cell


def _summarise(cell: TableCell, estimates: Estimates) -> None:
    try:
        cell.summary = estimates.mean(cell.groups)
    except UsageError as error:  # the runs are there, what was asked for was not measured
        cell.problem = str(error)


def mark_best(cells: Mapping[Key, TableCell], estimates: Estimates) -> None:
    """Tie groups of each column in each panel, among its complete cells. Costs are not ranked, nor stand-ins, nor a row
    that asks for fewer runs than another: it has no spread over seeds of its own, and none paired with the others'."""
    columns: dict[tuple[str, str], dict[str, TableCell]] = {}
    for (panel, row, column), cell in cells.items():
        if cell.complete and not cell.groups[0].is_cost and not cell.spec.offline:
            columns.setdefault((panel, column), {})[row] = cell
    for (_, column), complete in columns.items():
        most = max(cell.asked for cell in complete.values())
        rivals = {row: cell for row, cell in complete.items() if cell.asked == most}
        estimates.warnings |= {_few(row, cell.asked): None for row, cell in complete.items() if row not in rivals}
        if len(rivals) < 2:
            continue
        try:
            found = estimates.ties({row: cell.groups for row, cell in rivals.items()})
        except ValueError as error:  # rows of other test items have no common best
            estimates.warnings[f"{column}: no row is marked as best, since {error}"] = None
            continue
        for row, cell in rivals.items():
            cell.letters, cell.best = found[row]


def _few(row: str, asked: int) -> str:
    """Why a row is not ranked."""
    runs = "one run" if asked == 1 else f"{asked} runs"
    return f"{row}: {runs} where other rows ask for more, so its spread over seeds is not theirs; it is not ranked"
