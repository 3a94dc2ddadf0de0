"""From a config back to the command that makes it."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from omegaconf import OmegaConf

from peftbench.config.catalogue import files_of, names
from peftbench.config.grammar import hydra_value
from peftbench.config.many import compose_remembered, composed
from peftbench.config.schema import NOT_TYPED
from peftbench.config.sections import GROUPS, formulation_options

_HOW = ("out_dir", "data_dir", "tracking", "rerun", "trainer.progress")
"""Keys that do not belong to what is run but to how and where; they are left out unless asked for."""
_ADDED = re.compile(
    r"task\.|method\.lr\.|method\.tuner\.options\.|method\.trick\.|method\.continued_pretraining\.lr\.|search\.space\.|recipe\."
)
"""Sections to which a command may add keys, `+method.lr.prompt=0.3`."""
_PARTS = ("tuner", "formulation", "inference")
"""Groups inside `method`, whose sections have the name of the file that they were made from."""


def overrides_of(config: dict[str, Any], keep: Sequence[str] = (), always: Sequence[str] = ()) -> list[str]:
    """The fewest overrides with which peftbench composes this config; empty for the defaults.

    Args:
        config: a resolved config, as a record holds it. A key that this version does not have is left out, so the
            result is right for records of this version.
        keep: dotted keys among those of how and where (`data_dir`) that are wanted too. What no command can say
            (`NOT_TYPED`) follows from the rest: `plugins` from the files that are named.
        always: groups (`method`) that are named even if they are the default.

    Raises:
        UsageError: a file that the config was made from (a method, a task) is not there any more.
    """
    named = [(group, _choice(group, config.get(group) or {})) for group in GROUPS if group not in _HOW]
    choices = [f"{group}={name}" for group, name in named if group in always or name != _default_names()[group]]
    choices += _parts_of_the_method(choices, config.get("method") or {})
    if (recipe := (config.get("recipe") or {}).get("name")) in names("recipe"):
        choices.append(f"+recipe={recipe}")
    raw = _flat(_plain_tree(choices))
    wanted = {key: value for key, value in _flat(config).items() if not _is_left_out(key, keep)}
    needed = {key: wanted[key] for key, value in raw.items() if is_open(key, value) and key in wanted}
    base = _composed(choices, needed)
    changed = {k: v for k, v in wanted.items() if k in base and base[k] != v}
    own = {k: v for k, v in changed.items() if "${" not in str(raw.get(k))}  # the others may follow (subset: ${.lang})
    made = _composed(choices, {**needed, **own})
    rest = {k: v for k, v in changed.items() if made.get(k) != v}
    added = {f"+{k}": v for k, v in wanted.items() if k not in base and _ADDED.match(k)}
    return [*choices, *(f"{key}={hydra_value(value)}" for key, value in {**needed, **own, **rest, **added}.items())]


def _parts_of_the_method(choices: Sequence[str], method: dict[str, Any]) -> list[str]:
    """The tuner and the formulation, where they are not the method's own; and without the keys (`~key`) that the
    method gives its own formulation and the chosen one does not have."""
    own = _plain_tree(choices).get("method") or {}
    parts = {part: (method.get(part) or {}).get("name") for part in _PARTS}
    chosen = [
        f"method/{part}={name}"
        for part, name in parts.items()
        if name in names(f"method/{part}") and name != (own.get(part) or {}).get("name")
    ]
    tricks = [label for label in method.get("trick") or {} if label in names("method/trick")]
    if {*tricks} != {*(given := own.get("trick") or {})}:
        listed = f"method/trick=[{','.join(tricks)}]"
        chosen.append("~method/trick" if not tricks else listed if given else f"+{listed}")
    if not any(choice.startswith("method/formulation") for choice in chosen):
        return chosen
    left = (_plain_tree([*choices, *chosen]).get("method") or {}).get("formulation") or {}
    known = {f.name for f in fields(formulation_options(str(parts["formulation"])))}
    return [*chosen, *(f"~method.formulation.{key}" for key in left if key not in known)]


def _choice(group: str, section: dict[str, Any]) -> str:
    """The file that a section was made from: of a task the short one (`task=sst2`), if there is one. Those that take
    their name from a value (`model=hub`) are told by likeness.
    """
    name, files = section.get("name", _default_names()[group]), names(group)
    if group == "task" and section.get("subset") in files:
        alias = _section(group, section["subset"])
        if name in alias.get("defaults", ()) and alias.get("description") == section.get("description"):
            return str(section["subset"])
    if name in files:
        return name
    templates = {file: _flat(_section(group, file)) for file in files}
    found = _flat(section)

    def likeness(file: str) -> int:
        return sum(found.get(key) == value for key, value in templates[file].items())

    return max((file for file in files if "${" in str(templates[file].get("name"))), key=likeness, default=name)


@functools.cache
def _default_names() -> dict[str, str]:
    tree = _plain_tree([])
    return {group: str((tree.get(group) or {}).get("name")) for group in GROUPS}


def _section(group: str, file: str) -> dict[str, Any]:
    loaded = OmegaConf.create(files_of(group)[file].read_text(encoding="utf-8"))
    return OmegaConf.to_container(loaded, resolve=False)  # type: ignore[return-value]


def _plain_tree(choices: Sequence[str]) -> dict[str, Any]:
    """What the files say, with `${...}` and `???` as they stand there."""
    return OmegaConf.to_container(composed(tuple(choices)), resolve=False)  # type: ignore[return-value]


def _composed(choices: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    return _flat(
        asdict(compose_remembered([*choices, *(f"{key}={hydra_value(value)}" for key, value in values.items())]))
    )


def is_open(key: str, value: Any) -> bool:
    """Whether a file leaves a key to the user, or to a checkpoint that may not be at hand any more."""
    return value == "???" or (key == "model.family" and value is None)


def _is_left_out(key: str, keep: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in (*_HOW, *NOT_TYPED) if part not in keep)


def command(overrides: Sequence[str], multirun: bool = False) -> str:
    """`peftbench` with these overrides, quoted for a shell; of two with the same key the last one counts."""
    last = {override.partition("=")[0]: override for override in overrides}
    return shlex.join(["peftbench", *(["-m"] if multirun else []), *last.values()])


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return dict(_leaves(config, ""))


def _leaves(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value; an empty mapping is a value, and a key that is no name belongs to its mapping's value."""
    for key, value in config.items():
        if isinstance(value, dict) and value and all(re.fullmatch(r"\w+", str(k)) for k in value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _as_json(value)


def _as_json(value: Any) -> Any:
    """As a record has it: keys of mappings are text, tuples are lists. Infinity stays."""
    if isinstance(value, dict):
        return {str(k): _as_json(v) for k, v in value.items()}
    return [_as_json(v) for v in value] if isinstance(value, (list, tuple)) else value
