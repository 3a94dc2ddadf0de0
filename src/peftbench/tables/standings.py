"""Runs as cells with their intervals and ties: what plots and the report show.

A cell is the runs that differ in their seeds alone. A block is everything but the method: what has to be equal before
two methods may be compared. A method without a backbone (a floor) stands in the blocks of every backbone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from peftbench.cache import Cache
from peftbench.errors import UsageError
from peftbench.records.leaderboard import CELL, Row
from peftbench.records.naming import method_names
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.tables.estimates import COSTS, Estimates, Group

MOST_WITH_ITEMS = 500
"""Up to so many runs an interval takes in the test items, for which every run's predictions are read."""
MOST_PAIRS = 6000
"""Up to so many pairs of methods are compared for tie groups."""
NO_MODEL = "none"

Runs = tuple[Row, ...]


class Block(NamedTuple):
    """What two methods must share to be compared."""

    model: str
    task: str
    subset: str
    protocol: str
    shots: int | str
    metric: str

    def words(self, leave_out: Sequence[str] = ()) -> str:
        """The block in words, without the parts that a title says already."""
        shots = "all rows" if self.shots == "full" else f"{self.shots} shots"
        parts = {
            "task": f"{self.task}/{self.subset}" if self.subset and "subset" not in leave_out else self.task,
            "model": self.model,
            "shots": shots,
            "protocol": "" if self.protocol in ("default", self.task) else f"protocol {self.protocol}",
        }
        return ", ".join(words for name, words in parts.items() if words and name not in leave_out)

    def names(self) -> dict[str, str]:
        """What a panel of a figure says of itself, for its data."""
        return {name: getattr(self, name) for name in ("task", "subset", "protocol", "model", "metric")}


@dataclass(frozen=True)
class Standing:
    """The finished runs of one method in one block.

    Attributes:
        method: its name.
        label: the method's name, with what tells its settings from others of the same method in a block.
        runs: rows of the finished runs; `failed` counts the others.
        mean, low, high, sd: score in percent with its 95 % interval (None where no spread is known); `sd` over runs.
        covers: what the interval covers, in words.
        letters: tie group within the block, "a" that of the best; "" if ties were not computed.
        best: best, or not told apart from the best.
    """

    block: Block
    method: str
    label: str
    variant: str
    runs: Runs
    failed: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    covers: str = ""
    letters: str = ""
    best: bool = False


class Standings:
    """The cells of some rows, with everything that is estimated from them."""

    def __init__(
        self,
        store: Store,
        rows: Sequence[Row],
        methods: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        most_with_items: int = MOST_WITH_ITEMS,
    ) -> None:
        """The standings of these rows.

        Args:
            methods: all that there are in the store, for which colours are kept.
            labels: variant -> what its cell is called; else the method, with what tells settings of one method apart.
            most_with_items: for a reader who waits longer than `MOST_WITH_ITEMS` runs take.
        """
        self.rows, self.methods = list(rows), set(methods)
        self.with_items = sum(r["status"] == "done" for r in rows) <= most_with_items
        self._estimates = Estimates(store, Cache("tables"))
        self.notes: list[str] = []
        """What a reader has to know about the intervals."""
        if not self.with_items:
            self.notes.append(
                f"More than {MOST_WITH_ITEMS} runs: the intervals cover draws and seeds, not the test items. "
                "With filters that leave fewer runs they cover both."
            )
        names = method_names(store, rows) if labels is None else labels
        self.cells = [self._with_interval(cell) for cell in _labelled(_cells(rows), names)]

    def with_ties(self) -> list[Standing]:
        """The cells with their tie groups, as far as that can be done in seconds."""
        blocks = by_block(self.cells)
        pairs = sum(len(cells) * (len(cells) - 1) // 2 for cells in blocks.values())
        if pairs > MOST_PAIRS:
            self.notes.append(
                f"No tie groups: {pairs:,} pairs of methods; filters that leave {MOST_PAIRS:,} bring them."
            )
            return self.cells
        found: dict[tuple[Block, str], tuple[str, bool]] = {}
        for block, cells in blocks.items():
            scored = {cell.label: cell.runs for cell in cells if cell.mean is not None}
            if len(scored) > 1:
                found |= {(block, label): tie for label, tie in self._ties(block, scored).items()}
        self.notes += list(self._estimates.warnings)
        return [self._tied(cell, found) for cell in self.cells]

    def mean(self, groups: Sequence[Runs], metric: str) -> dict[str, Any]:
        """`statistics.Summary` of a score or a cost as a dictionary: of one cell, or of the plain mean over several."""
        if self.with_items or metric in COSTS:
            return self._estimates.mean([Group(metric, runs) for runs in groups])
        from peftbench import statistics

        return asdict(statistics.summarise([_scores_only(runs, metric) for runs in groups]))

    def only(self, metric: str) -> Standings:
        """The same standings without the cells of other metrics."""
        part = copy(self)
        part.cells = [cell for cell in self.cells if cell.block.metric == metric]
        return part

    def scored(self) -> list[Standing]:
        """The cells that have a score."""
        return [cell for cell in self.cells if cell.mean is not None]

    def _ties(self, block: Block, runs: Mapping[str, Runs]) -> dict[str, tuple[str, bool]]:
        """Label -> letters, and whether it is best or tied-best."""
        from peftbench import statistics

        try:
            if self.with_items:
                return self._estimates.ties({label: [Group(block.metric, rs)] for label, rs in runs.items()})
            ties = statistics.ties({label: _scores_only(rs, block.metric) for label, rs in runs.items()})
            return {label: (ties.letters[label], label in ties.best) for label in runs}
        except ValueError as error:
            self.notes.append(f"{block.words()}: no tie groups, since {error}.")
            return {}

    @staticmethod
    def _tied(cell: Standing, found: Mapping[tuple[Block, str], tuple[str, bool]]) -> Standing:
        """The cell with its ties; a floor that stands in the blocks of several backbones has none of its own."""
        if cell.block.model == NO_MODEL and (cell.block, cell.label) not in found:
            alike = [
                tie
                for (b, label), tie in found.items()
                if (b._replace(model=NO_MODEL), label) == (cell.block, cell.label)
            ]
            letters, best = alike[0] if len(alike) == 1 else ("", False)
        else:
            letters, best = found.get((cell.block, cell.label), ("", False))
        return replace(cell, letters=letters, best=best)

    def _with_interval(self, cell: Standing) -> Standing:
        if not cell.runs:
            return cell
        summary = self.mean([cell.runs], cell.block.metric)
        names = ("mean", "low", "high", "sd")
        return replace(cell, **{name: summary[name] for name in names}, covers=summary["method"])


def by_block(cells: Iterable[Standing]) -> dict[Block, list[Standing]]:
    """The cells of each block; those of a method without a backbone stand in the blocks of every backbone."""
    cells = list(cells)
    models: dict[Block, set[str]] = {}
    for cell in cells:
        models.setdefault(cell.block._replace(model=""), set()).add(cell.block.model)
    found: dict[Block, list[Standing]] = {}
    for cell in cells:
        present = models[cell.block._replace(model="")] - {NO_MODEL}
        for model in sorted(present) if cell.block.model == NO_MODEL and present else [cell.block.model]:
            found.setdefault(cell.block._replace(model=model), []).append(cell)
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def order(block: Block) -> tuple:
    """For sorting: shots by size, `full` last."""
    shots = float("inf") if block.shots == "full" else float(block.shots)
    return (block.task, block.subset, block.protocol, block.model, shots, block.metric)


def complete(blocks: Mapping[Block, Sequence[Standing]]) -> tuple[list[Block], list[str], list[str]]:
    """The blocks and methods whose table has no gap and the most cells; and in words what was left out.

    Methods are taken in order of how many blocks they have; each further one keeps the blocks that all have.
    """
    has: dict[str, set[Block]] = {}
    for block, cells in blocks.items():
        for cell in cells:
            if cell.mean is not None:
                has.setdefault(cell.label, set()).add(block)
    methods = sorted(has, key=lambda name: (-len(has[name]), name))
    common, best = set(blocks), (0, 0)
    for count, method in enumerate(methods, 1):
        common = common & has[method]
        best = max(best, (count * len(common), count))
    kept = methods[: best[1]]
    chosen = [b for b in blocks if all(b in has[m] for m in kept)]
    notes = []
    if gone := methods[best[1] :]:
        notes.append(f"left out for missing cells: {', '.join(sorted(gone))}")
    if len(chosen) < len(blocks):
        notes.append(f"{len(chosen)} of {len(blocks)} blocks, those with a score of every method shown")
    return chosen, sorted(kept), notes


def scope(blocks: Sequence[Block]) -> str:
    """What all blocks share, in words, and how many there are."""
    if len(set(blocks)) == 1:
        return blocks[0].words()
    shared = []
    for name, plural in (("task", "tasks"), ("subset", "subsets"), ("model", "models"), ("shots", "shot counts")):
        values = {getattr(b, name) for b in blocks}
        value = str(next(iter(values)))
        if len(values) > 1:
            shared.append(f"{len(values)} {plural}")
        elif value:
            shared.append(f"{value} shots" if name == "shots" and value != "full" else value)
    return ", ".join(shared)


def one_metric(standings: Standings) -> str:
    """The metric of all cells. Raises UsageError if there are several."""
    metrics = sorted({cell.block.metric for cell in standings.cells if cell.runs})
    if len(metrics) > 1:
        raise UsageError(
            f"These runs are measured in {', '.join(metrics)}; a mean needs one. Use --metric {metrics[0]}."
        )
    return metrics[0]


def _cells(rows: Sequence[Row]) -> list[Standing]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in CELL), []).append(row)
    cells = []
    for key, members in groups.items():
        named = dict(zip(CELL, key, strict=True))
        done = tuple(r for r in members if r["status"] == "done" and r["score"] is not None)
        block = Block(**{name: named[name] for name in Block._fields})
        cells.append(
            Standing(block, named["method"], named["method"], named["variant"], done, len(members) - len(done))
        )
    return cells


def _labelled(cells: Sequence[Standing], names: Mapping[str, str]) -> list[Standing]:
    """The cells by their full names, in order."""
    named = [replace(cell, label=names[cell.variant]) for cell in cells]
    return sorted(named, key=lambda cell: (order(cell.block), cell.label, cell.variant))


def _scores_only(runs: Runs, metric: str) -> Any:
    """A cell of `statistics` without test items."""
    from peftbench import statistics

    kept = {f.name for f in fields(Record)} & runs[0].keys()
    records = [
        Record(**{k: r[k] for k in kept}, scores={metric: r["score"]}, draw={"sha256": r["draw_sha"]}) for r in runs
    ]
    return statistics.cell_of_scores(records, metric)
