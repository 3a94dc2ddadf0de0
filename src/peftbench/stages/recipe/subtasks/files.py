"""Which sub-tasks there are, and descriptions of tasks. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from peftbench.config.user_files import read_text, read_yaml
from peftbench.errors import UsageError, did_you_mean
from peftbench.stages.recipe.subtasks import PACKAGED, SubtaskOptions
from peftbench.stages.recipe.subtasks.rules import RULES

KEYS = ("name", "rule", "instructions")


@dataclass(frozen=True)
class Subtask:
    """A small task and the wordings of its instruction."""

    name: str
    rule: str
    instructions: tuple[str, ...]


def check(options: SubtaskOptions) -> None:
    """Raises UsageError if sub-tasks or descriptions are none."""
    subtasks(options.subtasks)
    if options.descriptions is not None:
        definitions(Path(options.descriptions))


def subtasks(name: str) -> list[Subtask]:
    """The packaged ones, or those of a file.

    Raises:
        UsageError: an entry is none; the message names it.
    """
    where = f"recipe.subtasks={name}"
    if name == PACKAGED:
        plain = yaml.safe_load(files(__package__).joinpath("subtasks.yaml").read_text(encoding="utf-8"))
    else:
        plain = read_yaml(Path(name))
    listed = plain.get("subtasks")
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{where}: `subtasks` has to be a list of entries with {', '.join(KEYS)}.")
    return [_subtask(f"{where}: subtasks[{number}]", entry) for number, entry in enumerate(listed)]


def _subtask(where: str, entry: Any) -> Subtask:
    if not isinstance(entry, Mapping) or set(entry) != set(KEYS):
        raise UsageError(f"{where}: has to have {', '.join(KEYS)}, and nothing else.")
    if entry["rule"] not in RULES:
        raise UsageError(f"{where}.rule={entry['rule']}: no such rule. {did_you_mean(str(entry['rule']), RULES)}")
    told = entry["instructions"]
    if not isinstance(told, list) or not told or not all(isinstance(text, str) and text.strip() for text in told):
        raise UsageError(f"{where}.instructions: has to be a list of texts.")
    return Subtask(str(entry["name"]), entry["rule"], tuple(told))


def definitions(path: Path) -> list[str]:
    """The task descriptions of a file, each once.

    Raises:
        UsageError: a line has no `definition`, or the file has none.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found[" ".join(str(json.loads(line)["definition"]).split())] = None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}:{number}: not a line of JSON with a `definition`.") from None
    if not found:
        raise UsageError(f"{path}: has no task description.")
    return list(found)
