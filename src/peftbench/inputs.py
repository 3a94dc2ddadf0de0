"""What a run starts from: its data, its draw and, from these and the config, its name. Free of torch."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from peftbench import __version__
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.records.ids import run_id
from peftbench.tasks import TaskData, load_task
from peftbench.tasks.base import Row
from peftbench.tasks.protocols import Draw, draw
from peftbench.tasks.protocols.draw import data_seed_of

T = TypeVar("T")
KEPT_DATA, KEPT_DRAWS = 8, 4
"""Data sets and draws held at a time: rows take memory. Their hashes are all kept."""


class Inputs(NamedTuple):
    """What is known of a run before its first step."""

    data: TaskData
    draw: Draw
    run_id: str


class InputCache:
    """Loads the data and makes the draw of runs, each data set and each draw once for the runs that share it.

    A mistake (data that cannot be found, a class with too few rows) is remembered too. What lies here is as it was
    when it was first asked for; a cache lives as long as one command. Configs are taken for unchangeable.
    """

    def __init__(self) -> None:
        self._data: OrderedDict[tuple, TaskData | UsageError] = OrderedDict()
        self._draws: OrderedDict[tuple, Draw | UsageError] = OrderedDict()
        self._hashes: dict[tuple, tuple[str, str] | UsageError] = {}
        self._sections: dict[int, tuple[Any, dict[str, Any], str]] = {}

    def load(self, cfg: RunConfig) -> Inputs:
        """Data, draw and name of a run.

        Raises:
            UsageError: the data or the draw is wrong.
        """
        data_key, draw_key = self._keys(cfg)
        data = _recall(self._data, data_key, KEPT_DATA, lambda: load_task(cfg.task, data_dir(cfg)))
        drawn = _recall(
            self._draws, draw_key, KEPT_DRAWS, lambda: draw(data, cfg.protocol, cfg.shots, cfg.data_seed, cfg.seed)
        )
        if draw_key not in self._hashes:
            known = self._hashes.get(data_key)
            data_sha = known[0] if isinstance(known, tuple) else data.sha256()
            self._hashes[data_key] = data_sha, ""
            self._hashes[draw_key] = data_sha, drawn.sha256()
        return Inputs(data, drawn, self.run_id(cfg))

    def run_id(self, cfg: RunConfig) -> str:
        """The run's name; nothing is loaded if another run had the same draw.

        Raises:
            UsageError: the data or the draw is wrong.
        """
        _, draw_key = self._keys(cfg)
        if draw_key not in self._hashes:
            try:
                return self.load(cfg).run_id
            except UsageError as error:
                self._hashes[draw_key] = error
        known = self._hashes[draw_key]
        if isinstance(known, UsageError):
            raise known
        return run_id(self._plain(cfg), known[1], known[0], __version__)

    def data_key(self, cfg: RunConfig) -> tuple:
        """Equal for runs on the same data."""
        return self._keys(cfg)[0]

    def _keys(self, cfg: RunConfig) -> tuple[tuple, tuple]:
        data_key = (self._section(cfg.task)[1], str(data_dir(cfg)))
        seed = data_seed_of(cfg.protocol, cfg.data_seed, cfg.seed)
        return data_key, (*data_key, self._section(cfg.protocol)[1], cfg.shots, seed)

    def _plain(self, cfg: RunConfig) -> dict[str, Any]:
        """`asdict(cfg)`, the sections shared with other calls."""
        values = {f.name: getattr(cfg, f.name) for f in fields(cfg)}
        return {k: self._section(v)[0] if hasattr(v, "__dataclass_fields__") else v for k, v in values.items()}

    def _section(self, section: Any) -> tuple[dict[str, Any], str]:
        """A section as plain data and as text; sections that many configs share are converted once."""
        known = self._sections.get(id(section))
        if known is None:
            plain = asdict(section)
            known = (section, plain, json.dumps(plain, default=str))
            self._sections[id(section)] = known  # holding the section keeps its id from being given again
        return known[1:]


def _recall(store: OrderedDict[tuple, T | UsageError], key: tuple, limit: int, make: Callable[[], T]) -> T:
    """`make()`, or what it gave, or the mistake it raised, when it was last called for this key."""
    if key not in store:
        try:
            store[key] = make()
        except UsageError as error:
            store[key] = error
        if len(store) > limit:
            store.popitem(last=False)
    store.move_to_end(key)
    found = store[key]
    if isinstance(found, UsageError):
        raise found
    return found


def data_dir(cfg: RunConfig) -> Path | None:
    """Where real data sets lie: the config's `data_dir`, else the environment's, else nowhere."""
    folder = cfg.data_dir or os.environ.get("PEFTBENCH_DATA")
    return Path(folder).expanduser() if folder else None


def without_test_labels(data: TaskData, drawn: Draw) -> tuple[TaskData, Draw]:
    """The same rows, but those of test without their targets, so that no step of a run can look at them.

    The official dev split goes too: it is the test set where the official test has no labels.
    """

    def bare(rows: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(replace(row, target=None) for row in rows)

    tests = {name: bare(rows) for name, rows in drawn.extra_tests.items()}
    return (
        replace(data, dev=(), test=(), extra_tests={}),
        replace(drawn, test=bare(drawn.test), extra_tests=tests),
    )
