"""A table: its cells filled, its best rows marked, its verdicts given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.cache import Cache
from peftbench.errors import UsageError, did_you_mean
from peftbench.records import leaderboard
from peftbench.records.leaderboard import left_out_words
from peftbench.records.store import Store
from peftbench.tables.cells import Key, TableCell, mark_best, mean_cell
from peftbench.tables.claims import Claim, evaluate
from peftbench.tables.commands import Sweep
from peftbench.tables.estimates import Estimates, to_sample_mean
from peftbench.tables.obstacles import obstacles
from peftbench.tables.runs import RunFinder
from peftbench.tables.spec import CellSpec, TableConfig, lay_out
from peftbench.tables.tuned import a_cell
from peftbench.tables.verdict import judge


@dataclass
class Table:
    """A table with everything that its formats print.

    Attributes:
        given: overrides of the command line.
        cells: those that are shown, panel by panel, row by row.
        hidden: those of other columns that a mean is made of.
        claims: left out when only a part of the table was asked for.
        warnings: what a reader has to know about the intervals.
    """

    name: str
    config: TableConfig
    given: dict[str, Any]
    cells: dict[Key, TableCell]
    hidden: list[TableCell]
    claims: list[Claim]
    warnings: list[str]

    @property
    def panels(self) -> list[str]:
        """Labels of the panels; one empty label if the table has none."""
        return list(dict.fromkeys(panel for panel, _, _ in self.cells))

    def grid(self, panel: str) -> tuple[list[str], list[str]]:
        """Row and column labels of a panel."""
        keys = [key for key in self.cells if key[0] == panel]
        return list(dict.fromkeys(row for _, row, _ in keys)), list(dict.fromkeys(column for _, _, column in keys))

    def missing(self) -> list[Sweep]:
        """The sweeps of the cells that lack runs, hidden ones included."""
        every = (*self.cells.values(), *self.hidden)
        return [c.fill for c in every if c.fill is not None and c.done < c.asked]


def make_table(
    name: str,
    config: TableConfig,
    store: Store,
    given: Mapping[str, Any] | None = None,
    only: str = "",
    offline: bool = False,
) -> Table:
    """The table from the records of a store.

    Args:
        given: overrides of the command line, laid over every cell's own.
        only: labels of rows, columns or panels with commas between; of an axis that has one, the others are left out.
        offline: the rows alone that packaged models can fill (`offline: true`).

    Raises:
        UsageError: an override does not fit the table or does not compose; `only` names an unknown label.
    """
    specs = {(s.panel, s.row, s.column): s for s in lay_out(name, config, given)}
    shown = _shown(specs, only)
    if offline:
        rows = {row.label for row in config.rows if row.offline}
        shown = {key for key in shown if key[1] in rows}
    memory = Cache("tables")
    estimates = Estimates(store, memory)
    finder = RunFinder(leaderboard.current_rows(store), memory)
    needed = shown | {(p, r, column) for p, r, c in shown for column in specs[p, r, c].mean_of}
    cells = {key: a_cell(specs[key], finder, estimates) for key in specs if key in needed and not specs[key].mean_of}
    cells |= {key: mean_cell(specs[key], cells, estimates) for key in specs if key in shown and specs[key].mean_of}
    kept = {key: cells[key] for key in specs if key in shown}
    mark_best(kept, estimates)
    for cell in kept.values():
        if cell.spec.paper is not None and cell.value is not None:
            runs = max(len(g.runs) for g in cell.groups)
            reasons = obstacles(cell, cell.spec.paper, config.backbones, estimates.data_notes)
            ours = to_sample_mean(cell.summary, runs)
            cell.verdict = judge(ours, cell.spec.paper, cell.spec.margin, reasons, config.paper_runs)
    claims = [] if only or offline else evaluate(name, config, kept, estimates)
    hidden = [cell for key, cell in cells.items() if key not in kept]
    warnings = [*estimates.warnings, *([f"{left_out_words(len(finder.left_out))}."] if finder.left_out else [])]
    return Table(name, config, dict(given or {}), kept, hidden, claims, warnings)


def _shown(specs: Mapping[Key, CellSpec], only: str) -> set[Key]:
    axes = [{key[i] for key in specs} - {""} for i in range(3)]
    chosen = split_labels(only, set().union(*axes))
    wanted = [axis & chosen or axis | {""} for axis in axes]
    return {key for key in specs if all(label in axis for label, axis in zip(key, wanted, strict=True))}


def split_labels(text: str, known: Collection[str]) -> set[str]:
    """The labels in a list with commas between them; labels may have commas themselves.

    Raises:
        UsageError: what stands there begins with no known label.
    """
    found, rest = set(), text.strip()
    while rest:
        fitting = [label for label in known if rest == label or rest.startswith(f"{label},")]
        if not fitting:
            wrong = rest.split(",")[0]
            raise UsageError(f"--only {wrong}: no such row, column or panel. {did_you_mean(wrong, known)}")
        label = max(fitting, key=len)
        found.add(label)
        rest = rest[len(label) :].lstrip(", ")
    return found
