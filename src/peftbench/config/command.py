"""From a config back to the command that makes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from peftbench.config.load import GROUPS, compose
from peftbench.errors import UsageError

_HOW = ("out_dir", "data_dir", "tracking", "rerun", "trainer.progress")
"""Keys that do not belong to what is run but to how and where; they are left out unless asked for."""
_PLAIN = re.compile(r"[\w./:+@%-]+")


def overrides_of(config: dict[str, Any], keep: Sequence[str] = ()) -> list[str]:
    """The fewest overrides with which peftbench composes this config; empty for the defaults.

    Args:
        config: a resolved config, as a record holds it. A key that this version does not have is left out, so the
            result is right for records of this version.
        keep: dotted keys among those of how and where (`data_dir`) that are wanted too.

    Raises:
        UsageError: a file that the config was made from (a method, a task) is not there any more.
    """
    default = asdict(compose())
    choices = [
        f"{group}={config[group]['name']}"
        for group in GROUPS
        if group not in _HOW and (config.get(group) or {}).get("name") not in (None, default[group].get("name"))
    ]
    wanted, base = _flat(config), _flat(asdict(compose(choices)))
    left_out = [key for key in _HOW if key not in keep]
    changed = {
        key: value
        for key, value in wanted.items()
        if key in base and base[key] != value and not any(key == how or key.startswith(f"{how}.") for how in left_out)
    }
    return [*choices, *(f"{key}={hydra_value(value)}" for key, value in _independent(choices, changed).items())]


def command_of(config: dict[str, Any], extra: Sequence[str] = ()) -> str:
    """The command line that makes this config, ready for a shell. `extra` overrides replace those of the same key."""
    return command([*overrides_of(config), *extra])


def command(overrides: Sequence[str], multirun: bool = False) -> str:
    """`peftbench` with these overrides, quoted for a shell; of two with the same key the last one counts."""
    last = {override.partition("=")[0]: override for override in overrides}
    return shlex.join(["peftbench", *(["-m"] if multirun else []), *last.values()])


def hydra_value(value: Any) -> str:
    """A plain value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{hydra_value(k)}:{hydra_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    text = str(value)
    looks_like_another = isinstance(value, str) and (text.lower() in ("null", "true", "false") or _is_number(text))
    if _PLAIN.fullmatch(text) and not looks_like_another:
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _independent(choices: Sequence[str], changed: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that follow others (`task.subset` follows `task.lang`)."""
    for key in [*changed]:
        twins = [other for other, value in changed.items() if other != key and value == changed[key]]
        if not twins:
            continue
        rest = {other: value for other, value in changed.items() if other != key}
        try:
            made = _flat(asdict(compose([*choices, *(f"{k}={hydra_value(v)}" for k, v in rest.items())])))
        except UsageError:
            continue
        if all(made.get(k) == v for k, v in changed.items()):
            changed = rest
    return changed


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return dict(_leaves(config, ""))


def _leaves(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value; an empty mapping is a value, and a key that is no name belongs to its mapping's value."""
    for key, value in config.items():
        if isinstance(value, dict) and value and all(re.fullmatch(r"\w+", str(k)) for k in value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
