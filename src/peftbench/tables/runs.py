"""Which runs a cell asks for, and which of them are there.

A cell takes exactly the runs that its own command makes: its config is composed and compared by content, so runs with
another rank, length or number of steps never slip into a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from peftbench.cache import Cache, code_stamp
from peftbench.records import ids
from peftbench.records.leaderboard import Row
from peftbench.tables.commands import value
from peftbench.tables.spec import CellSpec

if TYPE_CHECKING:
    from peftbench.config.many import Composer
    from peftbench.config.schema import RunConfig


@dataclass(frozen=True)
class Wanted:
    """The runs of a cell.

    Attributes:
        names: method, task, subset and shots as records have them.
        seeds: (data seed, seed) of each run.
        overrides: what composes their config, without seeds.
    """

    names: tuple[str, ...]
    seeds: tuple[tuple[int, int], ...]
    overrides: tuple[str, ...]

    @cached_property
    def _plain(self) -> dict[str, Any]:
        return asdict(_composer().compose(self.overrides))

    def variant(self, data_sha: str, basis: ids.Basis) -> str:
        """What the leaderboard calls runs of this config on these data, of these weights and results versions."""
        return ids.variant(self._plain, data_sha, basis)


class RunFinder:
    """The leaderboard's rows, found by the cell that asks for them; runs of older results versions are left out."""

    def __init__(self, rows: Iterable[Row], memory: Cache) -> None:
        self._memory = memory
        self._by_names: dict[tuple, list[Row]] = {}
        self.left_out: set[str] = set()
        """Runs of older results versions that cells would have had."""
        for row in rows:
            self._by_names.setdefault(tuple(str(row[k]) for k in ("method", "task", "subset", "shots")), []).append(row)

    def wanted(self, spec: CellSpec) -> Wanted:
        """The runs of a cell. Raises UsageError if its overrides do not compose."""
        overrides = tuple(f"{key}={value(v)}" for key, v in spec.run.items())

        def compose() -> list[Any]:
            config = _composer().compose(overrides)
            names = (config.method.name, config.task.name, config.task.place, config.shots)
            return [[*map(str, names)], [[*pair] for pair in seeds_asked(config, spec.repeat)]]

        names, seeds = self._memory.once(["wanted", fingerprint(), overrides, dict(spec.repeat)], compose)
        return Wanted(tuple(names), tuple((draw, seed) for draw, seed in seeds), overrides)

    def find(self, wanted: Wanted) -> list[Row]:
        """One row for each (data seed, seed) that was run; a finished one, if there is one.

        The same config on other data, of other weights or by another results version is another experiment: of those,
        the one with the most finished runs is taken, the newest if several have as many.
        """
        by_variant: dict[str, list[Row]] = {}
        for row in self._by_names.get(wanted.names, ()):
            if (row["data_seed"], row["seed"]) not in wanted.seeds:
                continue
            if row["outdated"]:
                self.left_out.add(row["run_id"])
            else:
                by_variant.setdefault(row["variant"], []).append(row)
        fitting = [rows for variant, rows in by_variant.items() if self._variant(wanted, rows[0]) == variant]
        chosen = max(fitting, key=_finished_and_newest, default=[])
        by_seeds = {(r["data_seed"], r["seed"]): r for r in sorted(chosen, key=lambda r: (is_done(r), r["created"]))}
        return list(by_seeds.values())

    def _variant(self, wanted: Wanted, row: Row) -> str:
        made = (row["data_sha"] or "", row["identity"])
        key = ["variant", fingerprint(), wanted.overrides, *made]
        return self._memory.once(key, lambda: wanted.variant(*made))


def is_done(row: Row) -> bool:
    """Whether a run ended as it should."""
    return row["status"] == "done"


def _finished_and_newest(rows: Sequence[Row]) -> tuple[int, str]:
    return sum(map(is_done, rows)), max(r["created"] for r in rows)


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


@cache
def _composer() -> Composer:
    """One for the process: what it composed for one table serves the next."""
    from peftbench.config.many import Composer

    return Composer()


@cache
def fingerprint() -> list[str]:
    """Changes with every file that decides what overrides compose to and how runs are named."""
    from peftbench.config.user_files import config_stamp

    return [code_stamp("records"), *config_stamp()]
