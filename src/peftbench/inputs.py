"""What a run starts from: its data, its draw and, from these and the config, its name. Free of torch."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple, TypeVar

from peftbench.config import compose
from peftbench.config.components import RECIPE
from peftbench.config.schema import RunConfig
from peftbench.errors import UsageError
from peftbench.formulations.declared import declaration
from peftbench.models.content import content_id
from peftbench.models.hashing import content_hash
from peftbench.records.ids import Spelled, run_id, versions
from peftbench.records.store import Store
from peftbench.stages import get_stage, stages_of
from peftbench.tasks import TaskData, data_dir, load_task
from peftbench.tasks.base import Row
from peftbench.tasks.protocols import Draw, draw
from peftbench.tasks.protocols.draw import data_seed_of

T = TypeVar("T")
Key = tuple[Any, ...]
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
        self._data: OrderedDict[Key, TaskData | UsageError] = OrderedDict()
        self._draws: OrderedDict[Key, Draw | UsageError] = OrderedDict()
        self._hashes: dict[Key, tuple[str, str] | UsageError] = {}
        self._contents: dict[Key, tuple[RunConfig, dict[str, str]]] = {}
        self._spelled: Spelled = {}
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
        plain = self._plain(cfg)
        return run_id(plain, known[1], known[0], self._basis(cfg, plain), self._spelled)

    def basis(self, cfg: RunConfig) -> dict[str, Any]:
        """What the run's name rests on besides config, draw and data; see `peftbench.records.ids.Basis`."""
        return self._basis(cfg, self._plain(cfg))

    def _basis(self, cfg: RunConfig, plain: dict[str, Any]) -> dict[str, Any]:
        return {"contents": self.contents(cfg), "versions": versions(plain)}

    def data_key(self, cfg: RunConfig) -> Key:
        """Equal for runs on the same data."""
        return self._keys(cfg)[0]

    def _keys(self, cfg: RunConfig) -> tuple[Key, Key]:
        data_key = (self._section(cfg.task)[1], str(data_dir(cfg)))
        seed = data_seed_of(cfg.protocol, cfg.data_seed, cfg.seed)
        return data_key, (*data_key, self._section(cfg.protocol)[1], cfg.shots, seed)

    def contents(self, cfg: RunConfig) -> dict[str, str]:
        """`contents`, looked up once for the runs that share a model, a formulation and what stages read besides."""
        key: Key = (
            id(cfg.model),
            id(cfg.method.formulation),
            cfg.method.needs_model,
            cfg.method.init_from,
            cfg.out_dir,
            repr(cfg.recipe),
        )
        if reads_more(cfg):
            key = (*key, id(cfg.method), *self.data_key(cfg))
        if key not in self._contents:
            self._contents[key] = (cfg, contents(cfg))  # holding the sections keeps their ids from being given again
        return self._contents[key][1]

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


def _recall(store: OrderedDict[Key, T | UsageError], key: Key, limit: int, make: Callable[[], T]) -> T:
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


def contents(cfg: RunConfig) -> dict[str, str]:
    """The weights that a run starts from, by content: its `model`'s, the adapter's of `init_from`, and those of the
    encoder that chooses `demonstrations`; and what its stages read besides (`Stage.contents`).

    Raises:
        UsageError: one of them cannot be found.
    """
    found = {} if cfg.recipe is None else get_stage(RECIPE).contents_of(cfg, data_dir(cfg))
    if not cfg.method.needs_model:
        return found
    found |= {"model": content_id(cfg.model)}
    if cfg.method.init_from is not None:
        found["init_from"] = adapter_content(Store(cfg.out_dir), cfg.method.init_from)
    if (encoder := cfg.method.formulation.second_model()) is not None:
        found["demonstrations"] = content_id(compose([f"model={encoder}"]).model)
    if (told := declaration(cfg.method.formulation.name).contents) is not None:
        found |= told(cfg)
    for stage in stages_of(cfg.method.stages):
        found |= stage.contents_of(cfg, data_dir(cfg))
    return found


def reads_more(cfg: RunConfig) -> bool:
    """Whether a stage or the formulation reads something besides the draw and the backbone."""
    return declaration(cfg.method.formulation.name).contents is not None or any(
        stage.contents is not None for stage in stages_of(cfg.method.stages)
    )


def adapter_content(store: Store, run: str) -> str:
    """What a run has trained; "absent" if it saved nothing, which ends a run that starts from it.

    Raises:
        UsageError: this is no id of a run.
    """
    if not re.fullmatch(r"[\w.-]{1,64}", run):
        raise UsageError(f"method.init_from={run}: is no id of a run. `peftbench ls runs` lists them.")
    files = sorted((store.folder(run) / "adapter").glob("*.safetensors"))
    return f"sha256:{content_hash(files)}" if files else "absent"


def without_test_labels(data: TaskData, drawn: Draw) -> tuple[TaskData, Draw]:
    """The same rows, but those of test without their targets, so that no step of a run can look at them.

    The official dev split goes too: it is the test set where the official test has no labels.
    """

    def bare(rows: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(replace(row, target=None) for row in rows)

    tests = {name: bare(rows) for name, rows in drawn.extra_tests.items()}
    tasks, draws = dict(data.tasks), dict(drawn.tasks)
    for name in data.tasks:
        tasks[name], draws[name] = without_test_labels(data.tasks[name], drawn.tasks[name])
    return (
        replace(data, dev=(), test=(), extra_tests={}, tasks=tasks),
        replace(drawn, test=bare(drawn.test), extra_tests=tests, tasks=draws),
    )
