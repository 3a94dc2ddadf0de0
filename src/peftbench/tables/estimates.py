"""Means, intervals and ties of the cells of tables.

An interval needs the stored predictions of every run behind it, which are large; so it is remembered by its runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from peftbench.cache import Cache, code_stamp, stamp
from peftbench.errors import UsageError
from peftbench.records.leaderboard import Row
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.tables.verdict import SampleMean

if TYPE_CHECKING:
    from peftbench import statistics

COSTS = (
    "trainable_params", "trainable_percent", "train_seconds", "train_cpu_seconds", "eval_seconds", "total_seconds",
    "train_peak_mib", "eval_peak_mib", "step_flops", "saved_bytes", "adapter_bytes", "tokens_per_second",
    "tuning_trials", "tuning_seconds", "tuning_cpu_seconds", "tuning_start_dev_score", "tuning_dev_score",
)  # fmt: skip
"""Metrics that are counted or measured on a run, not on its test items."""

TUNING = tuple(name for name in COSTS if name.startswith("tuning_"))
"""Those of a search: its budget, its cost, the dev scores of the settings as given and of those chosen."""

COUNTED = ("trainable_params", "trainable_percent", "step_flops", "saved_bytes", "adapter_bytes", *TUNING)
"""Costs that are the same each time, so one run is enough to know them."""


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in their seeds alone, as rows of the leaderboard, and what is looked at in them."""

    metric: str
    runs: tuple[Row, ...]

    @property
    def is_cost(self) -> bool:
        """Whether the metric is what a run took, and no score of its answers."""
        return self.metric in COSTS


class Estimates:
    """Numbers of one store."""

    def __init__(self, store: Store, memory: Cache) -> None:
        self.store = store
        self.warnings: dict[str, None] = {}
        """What a reader has to know about the intervals, each once."""
        self._memory = memory
        self._stamps: dict[str, Any] = {}
        self._records: dict[str, Record] = {}
        self._cells: dict[str, Any] = {}

    def mean(self, groups: Sequence[Group]) -> dict[str, Any]:
        """`statistics.Summary` as a dictionary: of one cell, or of the plain mean over several.

        Raises:
            UsageError: a run lacks the metric.
        """

        def compute() -> dict[str, Any]:
            from peftbench import statistics

            if groups[0].is_cost:
                terms = [(1 / len(groups), self._costs(g)) for g in groups]
                return _certain(groups, asdict(statistics.estimate(terms, bounds=(0.0, math.inf))))
            return asdict(statistics.summarise([self.cell(g) for g in groups]))

        return self._remember(["mean", *map(self._key, groups)], compute)

    def difference(self, ours: Sequence[Group], others: Sequence[Group]) -> dict[str, Any]:
        """Mean of `ours` minus mean of `others`, paired by item and draw where they can be."""

        def compute() -> dict[str, Any]:
            from peftbench import statistics

            return asdict(statistics.difference([self.cell(g) for g in ours], [self.cell(g) for g in others]))

        return self._remember(["difference", [*map(self._key, ours)], [*map(self._key, others)]], compute)

    def log_ratio(self, ours: Sequence[Group], others: Sequence[Group]) -> dict[str, Any]:
        """Mean over the pairs of cells of the logarithm of the ratio of a cost; within a cell, of geometric means."""
        from peftbench import statistics

        both = [(1 / len(ours), g) for g in ours] + [(-1 / len(ours), g) for g in others]
        return _certain(ours, asdict(statistics.estimate([(c, self._costs(g, math.log)) for c, g in both])))

    def ties(self, rows: Mapping[str, Sequence[Group]]) -> dict[str, tuple[str, bool]]:
        """Row -> letters of its tie group and whether it is best or tied-best; Holm's correction over all pairs.

        Raises:
            ValueError: the rows were tested on different items, or differ in their metric.
        """

        def compute() -> dict[str, Any]:
            from peftbench import statistics

            found = statistics.ties({label: [self.cell(g) for g in groups] for label, groups in rows.items()})
            return {label: [found.letters[label], label in found.best] for label in rows}

        keys = {label: [*map(self._key, groups)] for label, groups in rows.items()}
        found = self._remember(["ties", keys], compute)
        return {label: (letters, best) for label, (letters, best) in found.items()}

    def data_notes(self, group: Group) -> list[str]:
        """What the records say of splits that are not the official ones."""

        def compute() -> list[str]:
            notes = self.record(group.runs[0]).data.get("notes") or ()
            return [note for note in notes if note.split(":")[0] in ("train", "dev", "test")]

        return self._remember(["notes", self._key(group)], compute)

    def cell(self, group: Group) -> statistics.Cell:
        """The runs' scores with their predictions; without them, if a predictions file is gone, and a warning."""
        from peftbench import statistics

        key = json.dumps(self._key(group))
        if key not in self._cells:
            records = [self.record(r) for r in group.runs]
            try:
                self._cells[key] = statistics.load_cell(self.store, records, group.metric)
            except UsageError as error:
                self._cells[key] = statistics.cell_of_scores(records, group.metric)
                self.warnings[f"{error} Until then its interval leaves the test items out."] = None
        return self._cells[key]

    def cost(self, run: Row, metric: str) -> float:
        """A cost of one run. Raises UsageError if it was not measured."""
        found = run.get(metric)
        if metric in TUNING:
            found = self.record(run).tuning.get(metric.removeprefix("tuning_"))
        if metric in ("trainable_percent", "adapter_bytes"):
            counts = self.record(run).parameters
            trained, total = counts.get("module", 0) + counts.get("head", 0), counts.get("total")
            percent = 100 * trained / total if total else None
            found = percent if metric == "trainable_percent" else counts.get("adapter_bytes")
        if found is None:
            raise UsageError(f"run {run['run_id']} has no {metric}")
        return float(found)

    def _costs(self, group: Group, scale: Callable[[float], float] = float) -> statistics.Sample:
        import numpy as np

        from peftbench import statistics

        values = [scale(self.cost(r, group.metric)) for r in group.runs]
        return statistics.Sample(np.array(values), tuple(r["data_seed"] for r in group.runs))

    def record(self, run: Row) -> Record:
        """The record of a row. Raises UsageError if it is gone."""
        name = run["run_id"]
        if name not in self._records:
            record = self.store.load(name)
            if record is None:
                raise UsageError(f"run {name} was removed while the table was made; give the command again.")
            self._records[name] = record
        return self._records[name]

    def _key(self, group: Group) -> list[Any]:
        """What changes when a run is replaced."""
        for run in group.runs:
            name, place = run["run_id"], self.store.path(run["run_id"]).absolute()
            if name not in self._stamps:
                self._stamps[name] = stamp([place]) or [[str(place), run["created"], run.get(group.metric)]]
        return [group.metric, *(self._stamps[run["run_id"]] for run in group.runs)]

    def _remember(self, key: Any, compute: Callable[[], Any]) -> Any:
        warned = len(self.warnings)  # what lacks a file is not kept: the file may come back
        code = code_stamp("statistics", "tables")
        return self._memory.once([code, key], compute, keep=lambda: len(self.warnings) == warned)


def _certain(groups: Sequence[Group], summary: dict[str, Any]) -> dict[str, Any]:
    """A count of single runs has no spread, rather than an unknown one."""
    if groups[0].metric in COUNTED and summary["se"] is None:
        return {**summary, "se": 0.0, "df": 1.0, "low": summary["mean"], "high": summary["mean"]}
    return summary


def to_sample_mean(summary: Mapping[str, Any], runs: int) -> SampleMean:
    """What a verdict needs of a `statistics.Summary`."""
    return SampleMean(summary["mean"], summary["se"], summary["df"], summary["sd"], runs)
