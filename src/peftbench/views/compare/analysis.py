"""The numbers of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from peftbench import statistics
from peftbench.errors import UsageError
from peftbench.records.leaderboard import Row
from peftbench.records.record import Record
from peftbench.records.seen import ABOUT, remarks
from peftbench.records.store import Store
from peftbench.statistics import Cell, PermutationTest, Power, Summary
from peftbench.views.compare.select import Match, Side, check_one_variant, pair_up

ALPHA = 0.05


@dataclass
class Comparison:
    """A minus B in one setting, or on the average over settings.

    Attributes:
        setting: what both share; empty for an average.
        over: number of settings.
        difference: with the p-value that the verdict goes by: over draws and items.
        items: would these very models differ on other items? None without predictions or without a common draw.
        draws: would other draws differ, by signs alone? None without a common draw.
        power: what it takes to see such a difference; None if the spread is not known.
        p: of `difference`, adjusted by Holm if there are several comparisons; None if nothing is known.
        seeds: for A and B, the data seeds and training seeds of the runs.
        runs: for A and B, a record to make further commands from.
        chosen_runs: a side names its runs or seeds itself, so further ones are not what is wanted.
    """

    a: str
    b: str
    setting: dict[str, Any]
    metric: str
    mean_a: Summary
    mean_b: Summary
    difference: Summary
    items: PermutationTest | None
    draws: PermutationTest | None
    power: Power | None
    p: float | None
    over: int = 1
    n_tests: int = 1
    draws_in_common: int = 0
    seeds: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ((), ())  # type: ignore[assignment]
    runs: tuple[Record, ...] = ()
    chosen_runs: bool = False
    notes: list[str] = field(default_factory=list)


class Comparer:
    """Compares sides; every cell is read once."""

    def __init__(self, store: Store, metric: str | None, across: Sequence[str], level: float) -> None:
        self.store, self.metric, self.across, self.level = store, metric, across, level
        self._cells: dict[tuple[str, ...], Cell] = {}
        self._records: dict[str, Record] = {}

    def compare(self, sides: Sequence[Side]) -> tuple[list[Comparison], list[Comparison], list[str]]:
        """Every pair in every common setting; the averages over settings, where there are several; and remarks.

        Raises:
            UsageError: as `pair_up`, or predictions are missing.
        """
        found, averages, notes = [], [], []
        for a, b in combinations(sides, 2):
            matches, remarks = pair_up(a, b, self.across, self.metric)
            notes += remarks
            pairs = [(match, self._pair_of_cells(match)) for match in matches]
            found += [self._comparison(match, *cells) for match, cells in pairs]
            if len(pairs) > 1:
                averages.append(self._average(a, b, [cells for _, cells in pairs]))
        return self._adjusted(found), self._adjusted(averages), list(dict.fromkeys(notes))

    def averages(self, sides: Sequence[Side]) -> list[Comparison]:
        """Every pair on the average over the settings that both have, where there are several; without the tests of
        each setting, of which those that exchange answers take a second each. Raises as `compare`."""
        found = []
        for a, b in combinations(sides, 2):
            pairs = [self._pair_of_cells(match) for match in pair_up(a, b, self.across, self.metric)[0]]
            if len(pairs) > 1:
                found.append(self._average(a, b, pairs))
        return self._adjusted(found)

    def _comparison(self, match: Match, a: Cell, b: Cell) -> Comparison:
        across = not statistics.comparable(a, b)
        difference = statistics.difference(a, b, self.level, across=across)
        matched = None if across else statistics.differences(a, b)
        return Comparison(
            a=match.a.name,
            b=match.b.name,
            setting=match.setting,
            metric=a.metric if a.metric == b.metric else f"{a.metric} against {b.metric}",
            mean_a=statistics.summarise(a, self.level),
            mean_b=statistics.summarise(b, self.level),
            difference=difference,
            items=None if across else statistics.permute_items(a, b),
            draws=None if matched is None else statistics.flip_signs(matched.replications),
            power=statistics.draws_needed(difference),
            p=difference.p,
            draws_in_common=0 if matched is None else len(set(matched.draws)),
            seeds=tuple(sorted({(r["data_seed"], r["seed"]) for r in rows}) for rows in match.rows),  # type: ignore
            runs=tuple(self.record(rows[-1]["run_id"]) for rows in match.rows),
            chosen_runs=bool({"run_id", "seed", "data_seed", "draw_sha"} & (match.a.named | match.b.named)),
            notes=[*match.notes, *_unmatched(a, b, matched), *_other_conditions(match), *_seen(match)],
        )

    def _average(self, a: Side, b: Side, pairs: Sequence[tuple[Cell, Cell]]) -> Comparison:
        mine, others = [x for x, _ in pairs], [y for _, y in pairs]
        across = not all(statistics.comparable(x, y) for x, y in pairs)
        difference = statistics.difference(mine, others, self.level, across=across)
        metrics = list(dict.fromkeys(cell.metric for cell in (*mine, *others)))
        return Comparison(
            a=a.name,
            b=b.name,
            setting={},
            metric=metrics[0] if len(metrics) == 1 else "mean of several metrics",
            mean_a=statistics.summarise(mine, self.level),
            mean_b=statistics.summarise(others, self.level),
            difference=difference,
            items=None,
            draws=None,
            power=statistics.draws_needed(difference),
            p=difference.p,
            over=len(pairs),
        )

    def _pair_of_cells(self, match: Match) -> tuple[Cell, Cell]:
        check_one_variant(match, self.record)
        a, b = (self._cell(rows) for rows in match.rows)
        return a, b

    def _cell(self, rows: Sequence[Row]) -> Cell:
        key = tuple(sorted(r["run_id"] for r in rows))
        if key not in self._cells:
            self._cells[key] = statistics.load_cell(self.store, [self.record(run) for run in key], self.metric)
        return self._cells[key]

    def record(self, run_id: str) -> Record:
        """The record of a run, read once. Raises UsageError if it was removed meanwhile."""
        if run_id not in self._records:
            record = self.store.load(run_id)
            if record is None:
                raise UsageError(f"compare: run {run_id} was removed meanwhile. Give the command again.")
            self._records[run_id] = record
        return self._records[run_id]

    def _adjusted(self, comparisons: list[Comparison]) -> list[Comparison]:
        """With Holm's correction over those that have a p-value."""
        known = [c for c in comparisons if c.p is not None]
        adjusted = dict(zip(map(id, known), statistics.holm([c.p for c in known if c.p is not None]), strict=True))
        return [replace(c, p=adjusted.get(id(c)), n_tests=len(known)) for c in comparisons]


def _unmatched(a: Cell, b: Cell, matched: statistics.Sample | None) -> list[str]:
    """Runs that have no partner do not enter the difference."""
    have = [len({run.draw for run in cell.runs}) for cell in (a, b)]
    if matched is None or (common := len(set(matched.draws))) == max(have):
        return []
    return [f"{common} draws are common to both ({have[0]} and {have[1]} in all); only they enter the difference"]


def _seen(match: Match) -> list[str]:
    """What the backbones have seen of the task, and the methods of test; worst where only one side has."""
    notes = []
    for column in ABOUT:
        one_sided = len({any(r.get(column) for r in rows) for rows in match.rows}) > 1
        found = remarks((r for rows in match.rows for r in rows), [column])
        notes += [f"{remark}{'; the other side has not' * one_sided}" for remark in found]
    return notes


def _other_conditions(match: Match) -> list[str]:
    """What else differs between the sides that a reader may want to know; none of it forbids the comparison."""
    notes = []
    for column, what in (("precision", "number format"), ("device", "device"), ("versions", "package versions")):
        values = [{r.get(column) for r in rows} for rows in match.rows]
        if values[0] != values[1]:
            shown = "" if column == "versions" else ": " + " and ".join("/".join(map(str, v)) for v in values)
            notes.append(f"the runs differ in {what}{shown}")
    return notes
