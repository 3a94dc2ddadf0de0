"""The name of a run: a hash of what decides its result, so that the same command always finds the same record."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.config.components import Choices, choices, components
from peftbench.errors import UsageError

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
    # what is read equals what would be made, bit for bit; the record says that it was read
    "trainer.reuse_frozen",
    # and so do runs that were trained together
    "trainer.together",
    # words for readers
    "model.description",
    "model.licence",
    "model.languages",
    "model.seen",
    "method.type",  # said again by method.tuner.type
    "method.select",  # said again by method.formulation
    "method.k",
    "method.description",
    "method.paper",
    "task.path",  # a data set of the user's own is named by the hash of its rows, wherever its files lie
    "task.splits",
    "task.templates",  # a formulation that asks in their words names them by content
    "task.description",
    "task.homepage",
    "task.licence",
    "task.languages",
    "protocol.description",
    "protocol.source",
)
"""Keys that never enter a name. What else is left out:

- whatever no component of the run uses (`peftbench.config.components`): `trainer.steps` of a floor, for example;
- a key that came after 0.1.0 and stands at its dataclass's default (`without_neutral`);
- `model`, when the method has `needs_model: false`, and where weights lie, when they are named by content;
- in `task.subsets`, the entries of subsets that this run does not use;
- without a search (`search=none`): `search`. With one, its sampler, budget and whole space do enter, and the values of
  the keys that it decides do not: whatever it chose, the same search is the same run, and a run that was tuned shares
  its cell with those that were tuned alike (`variant`), not with untuned ones.

The version of peftbench is not in a name: a component whose numbers change raises its `results_version`.
"""

SEEDS = ("seed", "data_seed", "protocol.data_seed")
"""Keys that differ between repetitions of one experiment."""


SECTIONS = ("model", "task", "protocol", "trainer", "search", "method", "recipe")
"""Of these sections names are made, and of the scalars beside them."""

Basis = Mapping[str, Any]
"""What a name rests on besides config, draw and data, as `Record.identity` has it: `contents`, the weights that the run
starts from (`peftbench.inputs.contents`), and `versions` of the components that have raised theirs (`versions`)."""

ALWAYS = ("shots", "seed", "data_seed", "method.name", "method.needs_model", "method.stages", "task", "protocol")
"""What every run depends on, or is called by, whatever it is made of."""
BY_CONTENT = {
    "model": ("path", "file", "parts", "sha256", "source", "revision", "mlm_head", "arch"),
    "init_from": ("init_from",),
    "language_texts": ("language_adapters.texts",),
}
"""Keys that say where weights or texts lie, which `contents` says better, by the part there."""


Spelled = dict[tuple[Any, ...], dict[str, str]]
"""What of configs enters names, key by key as JSON, by what tells their sections apart."""


def run_id(
    config: dict[str, Any], draw_sha: str, data_sha: str, basis: Basis | None = None, known: Spelled | None = None
) -> str:
    """16 hex digits that name a run by its content.

    Args:
        config: the resolved config as plain dicts and lists.
        draw_sha: SHA-256 of the drawn rows.
        data_sha: SHA-256 of the task's data.
        basis: see `Basis`.
        known: for whoever names many runs and keeps their sections, the same objects where they are the same: each
            combination of sections is then spelled once.
    """
    known = {} if known is None else known
    sections = (*(id(config.get(name)) for name in SECTIONS), repr(basis))
    if sections not in known:
        known[sections] = {key: _text(value) for key, value in _placed(content(config), basis).items()}
    spelled = {k: text if isinstance(config[k], dict) else _text(config[k]) for k, text in known[sections].items()}
    whole = ",".join(f"{json.dumps(key)}:{spelled[key]}" for key in sorted(spelled))
    return _hash(f"[{{{whole}}},{_text(draw_sha)},{_text(data_sha)},{_text(_stated(basis))}]")


def variant(config: dict[str, Any], data_sha: str, basis: Basis | None = None) -> str:
    """8 hex digits shared by exactly those runs that differ in their seeds alone, and so may be averaged."""
    return _hash(_text([_placed(content(config, EXCLUDED + SEEDS), basis), data_sha, _stated(basis)]))[:8]


def versions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Results version of each component of the config that has raised it, and the origin of those from outside."""
    return dict(_parts(choices(config))[1])


def is_outdated(config: Mapping[str, Any], basis: Basis | None) -> bool:
    """Whether a component that is part of peftbench would give other numbers today (`results_version`)."""
    recorded = (basis or {}).get("versions") or {}
    return any(
        isinstance(version, int) and version > recorded.get(part, 1) for part, version in versions(config).items()
    )


def content(config: dict[str, Any], excluded: Iterable[str] = EXCLUDED) -> dict[str, Any]:
    """The part of `config` that decides the result; `config` is left as it was.

    Of it only what the run's components use (`peftbench.config.components`), without keys that came after 0.1.0 and
    stand at the default of their dataclass, which means "as before".
    """
    stated = without_neutral(config)
    kept = _used(stated, _parts(choices(config))[0])
    if (config.get("method") or {}).get("needs_model") is False:
        kept.pop("model", None)
    if kept.get("task"):
        kept["task"] = _task_content(kept["task"])
    search = stated.get("search") or {}
    if search.get("name", "none") != "none":
        from peftbench.config.space import declared  # here: the package brings Hydra along, which no table needs

        space = declared(config)
        kept = {**_without(kept, space), "search": {**search, "space": space}}
    for dotted in excluded:
        group, _, key = dotted.rpartition(".")
        node = kept.get(group) if group else kept
        if node and key in node:
            del node[key]
    return kept


def _task_content(task: dict[str, Any]) -> dict[str, Any]:
    """The section of a task without subsets that are not used, and without what depends on where files lie."""
    kept = task
    if any("/" in metric for metric in task.get("metrics") or ()):  # a file of the user's own may lie anywhere
        kept = task = {**task, "metrics": [metric.rpartition("/")[2] for metric in task["metrics"]]}
    if "path" in task:
        kept = {key: value for key, value in task.items() if key != "subset"}  # the name of the file
    if task.get("subset") in (task.get("subsets") or {}):
        kept = {**task, "subsets": {task["subset"]: task["subsets"][task["subset"]]}}
        if tasks := (kept["subsets"][task["subset"]] or {}).get("tasks"):
            told = {name: _told(section) for name, section in tasks.items()}
            better = ("of", "knowledge", "knowledge_texts")  # said by the tasks' sections, and by the hash of the data
            kept = {key: value for key, value in task.items() if key not in better}
            kept["subsets"] = {task["subset"]: {"tasks": told}}
    return kept


def _told(task: dict[str, Any]) -> dict[str, Any]:
    """The content of a task of a sequence, made as `content` makes that of a run's task."""
    kept = _task_content(_trimmed(task, _section_class("task", task)))
    return {key: value for key, value in kept.items() if f"task.{key}" not in EXCLUDED}


def _placed(kept: dict[str, Any], basis: Basis | None) -> dict[str, Any]:
    """`content` without what `basis` names by content; changes `kept`."""
    for part in (basis or {}).get("contents") or ():
        section = kept.get("model" if part == "model" else "method") or {}
        for dotted in BY_CONTENT.get(part, ()):
            parent, _, key = dotted.rpartition(".")
            (section.get(parent) or {} if parent else section).pop(key, None)
    return kept


def _stated(basis: Basis | None) -> dict[str, Any]:
    """What of `basis` is hashed: versions and contents that there are."""
    return {key: dict(value) for key in ("contents", "versions") if (value := (basis or {}).get(key))}


@cache
def _parts(chosen: Choices) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, Any], ...]]:
    """Of the components of such a config: the keys that they use, each as its path, and `versions`.

    Every section counts in a record of components that are not installed here.
    """
    try:
        found = components(chosen)
    except UsageError:
        return tuple((section,) for section in (*ALWAYS, "model", "method", "trainer") if "." not in section), ()
    uses = {*ALWAYS, *(key for part in found for key in part.uses)}
    paths = sorted(tuple(key.split(".")) for key in uses)
    whole = [path for path in paths if not any(path[:n] in paths for n in range(1, len(path)))]
    raised = {
        f"{part.kind} {part.name}": [part.results_version, part.origin] if part.origin else part.results_version
        for part in found
        if part.results_version != 1 or part.origin
    }
    return tuple(whole), tuple(sorted(raised.items()))


def _used(config: Mapping[str, Any], paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """The parts of nested dictionaries at `paths`; sections are copies, what is in them is shared."""
    kept: dict[str, Any] = {}
    for *parents, key in paths:
        source: Any = config
        for part in parents:
            source = source.get(part) or {}
        if key in source:
            target = kept
            for part in parents:
                target = target.setdefault(part, {})
            value = source[key]
            target[key] = dict(value) if type(value) is dict else value
    return kept


def without_neutral(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without the keys that 0.1.0 did not have and that stand at the default of their dataclass."""
    kept = dict(config)
    for group in SECTIONS:
        section = kept.get(group)
        if isinstance(section, dict):
            kept[group] = _trimmed(section, _section_class(group, section))
    method = kept.get("method")
    if isinstance(method, dict):
        for name, section in method.items():
            if isinstance(section, dict) and name not in ("lr", "space"):
                method = {**method, name: _trimmed(section, _section_class(f"method.{name}", section))}
        kept["method"] = method
    return kept


def _trimmed(section: dict[str, Any], sort: str) -> dict[str, Any]:
    later = section.keys() - first_keys_of(sort)
    if not later:
        return section
    defaults = neutral(sort)
    return {k: v for k, v in section.items() if k not in later or k not in defaults or v != defaults[k]}


def _section_class(path: str, section: Mapping[str, Any]) -> str:
    """What tells the keys of a section: its path, with the choice where that decides them."""
    if path in ("method.tuner", "method.formulation", "method.inference"):
        return f"{path} {section.get('name')}"
    if path == "task":
        return f"task {section.get('adapter')}"
    if path == "recipe":
        return f"recipe {section.get('name')}"
    return path


def first_keys_of(sort: str) -> frozenset[str]:
    """Of one section; a task's by its adapter, where that has declared keys of its own."""
    known = first_keys()
    return known.get(sort) or known.get("task" if sort.startswith("task ") else sort, frozenset())


@cache
def first_keys() -> dict[str, frozenset[str]]:
    """The keys of every section when names were last made from all of them (0.1.0; an adapter's own, when it came).
    They always count where used."""
    path = Path(__file__).with_name("first_keys.json")
    return {sort: frozenset(keys) for sort, keys in json.loads(path.read_text(encoding="utf-8")).items()}


@cache
def neutral(sort: str) -> dict[str, Any]:
    """The defaults of a section's dataclass, as plain data; none for a section that no dataclass declares."""
    from peftbench.config.sections import dataclass_of

    schema = dataclass_of(sort)
    return {} if schema is None else defaults(schema)


def defaults(schema: type) -> dict[str, Any]:
    """Key -> default of a dataclass, as plain data, where it has one that is a value."""
    found: dict[str, Any] = {}
    for item in fields(schema):
        if item.default_factory is not MISSING:
            value = item.default_factory()
            found[item.name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        elif item.default is not MISSING and item.default != "???":
            found[item.name] = item.default
    return found


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


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


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
