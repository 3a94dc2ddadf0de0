"""From records to the cells of a table.

A cell holds exactly the runs that its own command makes: the config is composed and compared by content, so runs with
another rank, length or number of steps never slip into a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from peftbench.config.many import Composer
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.results import ids
from peftbench.results.leaderboard import Row
from peftbench.results.tables.commands import Sweep, cell_sweep, value
from peftbench.results.tables.estimates import Estimates, Group
from peftbench.results.tables.spec import CellSpec
from peftbench.results.tables.verdict import Verdict

Key = tuple[str, str, str]
"""Panel, row and column of a cell."""


@dataclass
class Cell:
    """A cell of a finished table.

    Attributes:
        groups: the finished runs behind it: one group, or one for each column that it is the mean of.
        asked: number of runs that make it complete; 0 if this version cannot make it.
        summary: `statistics.Summary` as a dictionary; empty where there is nothing yet.
        problem: why it is empty or incomplete.
        fill: the sweep of its own runs; None if this version cannot make them, or for a mean over columns.
        letters: tie group within panel and column; "a" is that of the best.
        best: best, or not told apart from the best.
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


@cache
def _composer() -> Composer:
    """One for the process: what it composed for one table serves the next."""
    return Composer()


class RunFinder:
    """The leaderboard's rows, found by the config that made them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._by_names: dict[tuple, list[Row]] = {}
        for row in rows:
            self._by_names.setdefault(tuple(str(row[k]) for k in ("method", "task", "subset", "shots")), []).append(row)

    def compose(self, spec: CellSpec) -> RunConfig:
        """The config of a cell's runs, but for their seeds."""
        return _composer().compose([f"{key}={value(v)}" for key, v in spec.run.items()])

    def find(self, config: RunConfig, seeds: Sequence[tuple[int, int]]) -> list[Row]:
        """One row for each (data seed, seed) that was run with this very config; a finished one, if there is one.

        The same config on other data or by another version of peftbench is another experiment: of those, the one with
        the most finished runs is taken, the newest if several have as many.
        """
        names = (config.method.name, config.task.name, config.task.subset, str(config.shots))
        by_variant: dict[str, list[Row]] = {}
        for row in self._by_names.get(names, ()):
            if (row["data_seed"], row["seed"]) in seeds:
                by_variant.setdefault(row["variant"], []).append(row)
        if not by_variant:
            return []
        plain = asdict(config)
        fitting = [
            rows
            for variant, rows in by_variant.items()
            if ids.variant(plain, rows[0]["data_sha"] or "", _version(rows[0])) == variant
        ]
        chosen = max(fitting, key=_finished_and_newest, default=[])
        by_seeds = {(r["data_seed"], r["seed"]): r for r in sorted(chosen, key=lambda r: (_is_done(r), r["created"]))}
        return list(by_seeds.values())


def _is_done(row: Row) -> bool:
    return row["status"] == "done"


def _finished_and_newest(rows: Sequence[Row]) -> tuple[int, str]:
    return sum(map(_is_done, rows)), max(r["created"] for r in rows)


def _version(row: Row) -> str:
    """The version of peftbench that made a run."""
    return dict(pair.split("=", 1) for pair in row["versions"].split()).get("peftbench", "")


def seeds_asked(config: RunConfig, repeat: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """(data seed, seed) of each run of a cell; where no data seed is given, the protocol says which it is."""

    def draws(seed: int) -> Sequence[int]:
        own = config.protocol.data_seed
        if "data_seed" in repeat:
            return repeat["data_seed"]
        if config.data_seed is not None:
            return [config.data_seed]
        return [seed if config.protocol.tie_seeds or own is None else own]

    return [(draw, seed) for seed in repeat.get("seed", [config.seed]) for draw in draws(seed)]


def own_cell(spec: CellSpec, finder: RunFinder, estimates: Estimates) -> Cell:
    """A cell of runs of its own."""
    cell = Cell(spec, problem=spec.missing)
    if spec.missing:
        return cell
    config = finder.compose(spec)
    seeds = seeds_asked(config, spec.repeat)
    rows = finder.find(config, seeds)
    done = tuple(filter(_is_done, rows))
    cell.fill, cell.asked = cell_sweep(spec.run, spec.repeat), len(seeds)
    if len(done) < len(seeds):
        failed = [r["status"] for r in rows if not _is_done(r)]
        counts = "".join(f", {failed.count(status)} {status}" for status in sorted(set(failed)))
        cell.problem = f"{len(done)} of {len(seeds)} runs{counts}"
    if done:
        cell.groups = [Group(done[0]["metric"] if spec.metric == "score" else spec.metric, done)]
        _summarise(cell, estimates)
    return cell


def mean_cell(spec: CellSpec, cells: Mapping[Key, Cell], estimates: Estimates) -> Cell:
    """The mean over other columns of the row; empty as long as one of them is."""
    parts = [cells[spec.panel, spec.row, column] for column in spec.mean_of]
    cell = Cell(spec, groups=[g for p in parts for g in p.groups], asked=sum(p.asked for p in parts))
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


def _summarise(cell: Cell, estimates: Estimates) -> None:
    try:
        cell.summary = estimates.mean(cell.groups)
    except UsageError as error:  # the runs are there, what was asked for was not measured
        cell.problem = str(error)


def mark_best(cells: Mapping[Key, Cell], estimates: Estimates) -> None:
    """Tie groups of each column in each panel, among its complete cells. Costs are not ranked."""
    columns: dict[tuple[str, str], dict[str, Cell]] = {}
    for (panel, row, column), cell in cells.items():
        if cell.complete and not cell.groups[0].is_cost:
            columns.setdefault((panel, column), {})[row] = cell
    for rivals in columns.values():
        if len(rivals) < 2:
            continue
        try:
            found = estimates.ties({row: cell.groups for row, cell in rivals.items()})
        except ValueError:  # rows of other test items or another metric have no common best
            continue
        for row, cell in rivals.items():
            cell.letters, cell.best = found[row]
