"""The name of a run: a hash of what decides its result, so that the same command always finds the same record."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

EXCLUDED = (
    # where things are read from and written to, and who is told (the data itself is named by its hash)
    "data_dir",
    "out_dir",
    "tracking",
    # how the run is started
    "hydra",
    "launcher",
    "rerun",
    # a trial of a search lies apart from the runs; what may be tried, and what trying cost, decide no result
    "evaluate",
    "tuning",
    "method.space",
    # what a run shows and keeps for a resume; a resumed run equals an uninterrupted one
    "trainer.name",
    "trainer.progress",
    "trainer.checkpoint_every",
    # the number of threads changes how long a run takes (the record says how many), not what is computed
    "trainer.threads",
    # words for readers
    "model.description",
    "model.licence",
    "model.languages",
    "method.type",  # said again by method.tuner.type
    "method.description",
    "method.paper",
    "task.path",  # a data set of the user's own is named by the hash of its rows, wherever its files lie
    "task.splits",
    "task.description",
    "task.homepage",
    "task.licence",
    "task.languages",
    "protocol.description",
    "protocol.source",
)
"""Every key of the config that does not enter the run id. Nothing else is left out, except:

- `model`, when the method has `needs_model: false` (the floors without a network);
- in `task.subsets`, the entries of subsets that this run does not use;
- without a search (`search=none`): `search`. With one, its sampler, budget and whole space do enter, and the values of
  the keys that it decides do not: whatever it chose, the same search is the same run, and a run that was tuned shares
  its cell with those that were tuned alike (`variant`), not with untuned ones.
"""

SEEDS = ("seed", "data_seed", "protocol.data_seed")
"""Keys that differ between repetitions of one experiment."""


Contents = Mapping[str, str]
"""Which weights a run starts from, by content: of its `model`, of the adapter of `init_from`, of `demonstrations`."""


def run_id(config: dict[str, Any], draw_sha: str, data_sha: str, version: str, contents: Contents | None = None) -> str:
    """16 hex digits that name a run by its content.

    Args:
        config: the resolved config as plain dicts and lists.
        draw_sha: SHA-256 of the drawn rows.
        data_sha: SHA-256 of the task's data.
        version: version of peftbench.
        contents: see `peftbench.inputs.contents`; records before 0.2.0 have none.
    """
    return _digest([content(config), draw_sha, data_sha, version, *([dict(contents)] if contents else [])])


def variant(config: dict[str, Any], data_sha: str, version: str, contents: Contents | None = None) -> str:
    """8 hex digits shared by exactly those runs that differ in their seeds alone, and so may be averaged."""
    kept = content(config, EXCLUDED + SEEDS)
    return _digest([kept, data_sha, version, *([dict(contents)] if contents else [])])[:8]


def content(config: dict[str, Any], excluded: Iterable[str] = EXCLUDED) -> dict[str, Any]:
    """The part of `config` that decides the result; `config` is left as it was."""
    kept = dict(config)
    if kept.get("method", {}).get("needs_model") is False:
        kept.pop("model", None)
    task = kept.get("task") or {}
    if any("/" in metric for metric in task.get("metrics") or ()):  # a file of the user's own may lie anywhere
        kept["task"] = task = {**task, "metrics": [metric.rpartition("/")[2] for metric in task["metrics"]]}
    if "path" in task:
        kept["task"] = {key: value for key, value in task.items() if key != "subset"}  # the name of the file
    if task.get("subset") in (task.get("subsets") or {}):
        kept["task"] = {**task, "subsets": {task["subset"]: task["subsets"][task["subset"]]}}
    search = kept.pop("search", None) or {}
    if search.get("name", "none") != "none":
        from peftbench.config.space import declared  # here: the package brings Hydra along, which no table needs

        space = declared(config)
        kept = {**_without(kept, space), "search": {**search, "space": space}}
    copied = set()
    for dotted in excluded:
        group, _, key = dotted.rpartition(".")
        if not group:
            kept.pop(key, None)
        elif key in (kept.get(group) or {}):
            if group not in copied:
                kept[group] = dict(kept[group])
                copied.add(group)
            del kept[group][key]
    return kept


def _without(config: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A copy of nested dictionaries without some dotted keys."""
    kept = copy.deepcopy(config)
    for dotted in keys:
        *parents, name = dotted.split(".")
        node = kept
        for part in parents:
            node = node.get(part) or {}
        node.pop(name, None)
    return kept


def _digest(value: Any) -> str:
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_ONE_SPELLING = frozenset({str, int, bool, type(None)})


def _canonical(value: Any) -> Any:
    """One spelling for each value: 1.0 is 1, tuples are lists, keys are text, infinity is a word."""
    if isinstance(value, dict):  # most values need no call: this is done for every run of a sweep
        return {str(k): v if type(v) in _ONE_SPELLING else _canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [v if type(v) in _ONE_SPELLING else _canonical(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    return value
