"""What there is: the choices of each axis with one line each, read from the config files themselves."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from peftbench.config.user_files import read_yaml, user_folder
from peftbench.errors import UsageError, did_you_mean
from peftbench.options import OptionParser

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # not there in Python 3.10

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
GROUPS = ("model", "method", "task", "protocol", "table", "formulation", "trick", "inference", "recipe")
FOLDERS = {group: f"method/{group}" for group in ("formulation", "trick", "inference")}
"""Where a group's files lie, if not in a folder of its name."""
ADDED = ("trick", "recipe")
"""Groups of which a run has no choice unless one is added with `+`."""


def names(group: str, own: bool = True) -> list[str]:
    """Choices of a config group, with the user's own or without; a choice in a sub-folder is `folder/name`."""
    return sorted(files_of(group) if own else _yaml_files(files("peftbench.conf") / FOLDERS.get(group, group)))


def entries(group: str, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One dictionary a choice: `name`, `description` and a few facts that depend on the group."""
    facts = {
        "model": ("family", "languages", "licence", "source"),
        "method": ("fits", "trained", "paper"),
        "task": ("languages", "licence", "main_metric", "subsets"),
        "protocol": ("unit", "dev", "select"),
        "table": ("paper",),
        **dict.fromkeys((*FOLDERS, "recipe"), ("options",)),
    }[group]
    rows = []
    for name in only or names(group):
        config = _read(group, name)
        if group == "method":
            config |= measured().get(name, {})
        if facts == ("options",):
            options = next(iter(config.values())) if group == "trick" else config
            config = {"description": _first_sentence(group, name), "options": [k for k in options if k != "name"]}
        row = {"name": name, "description": config.get("description", "")}
        for fact in facts:
            value = config.get(fact)
            row[fact] = list(value) if isinstance(value, dict) else value
        rows.append(row)
    return rows


def setting_of(word: str) -> str:
    """A sentence with the setting that a bare word was meant for; "" if there is none.

    >>> setting_of("lora")
    'Did you mean `method=lora`?'
    """
    for group in GROUPS:
        if group != "table" and word in files_of(group):
            return f"Did you mean `{'+' if group in ADDED else ''}{FOLDERS.get(group, group)}={word}`?"
    return ""


def files_of(group: str) -> dict[str, Traversable]:
    """Choice -> YAML file, the user's own among them. Sub-folders that are groups of their own are left out."""
    own = user_folder()
    folder = FOLDERS.get(group, group)
    found = _yaml_files(own / folder) if own is not None and group != "table" else {}
    return {**found, **_yaml_files(files("peftbench.conf") / folder)}


def _yaml_files(root: Traversable) -> dict[str, Traversable]:
    found: dict[str, Traversable] = {}
    own_groups = ("tuner", "formulation", "self_training", "trick", "inference")
    for item in root.iterdir() if root.is_dir() else ():
        if item.is_dir() and item.name not in own_groups:
            found.update({f"{item.name}/{f.name[:-5]}": f for f in item.iterdir() if f.name.endswith(".yaml")})
        elif item.name.endswith(".yaml"):
            found[item.name[:-5]] = item
    return found


def measured() -> dict[str, dict[str, Any]]:
    """Method -> the families that it `fits` and the share of the default model that is `trained`, without the head.

    From a file that `make tuner-table` writes: to find out, torch and a model have to be loaded, and a list should not
    take that long.
    """
    found = json.loads(files("peftbench.config").joinpath("method_facts.json").read_text(encoding="utf-8"))
    return {
        name: {"fits": facts["families"], "trained": "" if facts["share"] is None else f"{facts['share']:.2%}"}
        for name, facts in found["methods"].items()
    }


def _read(group: str, name: str) -> dict[str, Any]:
    """A choice's values; an alias file is laid over the file that its defaults list names.

    An alias of one subset has that subset alone, and what the subset says of itself.
    """
    file = files_of(group)[name]
    if is_own(file):
        config = read_yaml(Path(str(file)))
    else:
        config = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER) or {}
    base: dict[str, Any] = {}
    for default in config.pop("defaults", []):
        if isinstance(default, str) and default != "_self_" and default in files_of(group):
            base.update(_read(group, default))
    chosen = config.get("subset")
    if chosen in base.get("subsets", {}):
        own = base["subsets"][chosen]
        return {**base, **(own or {}), **config, "subsets": {chosen: own}}
    return {**base, **config}


def _first_sentence(group: str, name: str) -> str:
    """Of the words at the top of a choice's file, behind the commands and an empty line of comment."""
    lines = files_of(group)[name].read_text(encoding="utf-8").splitlines()
    head = [line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    words = " ".join(head[head.index("") + 1 :]) if "" in head else ""
    return words.partition(". ")[0].rstrip(".")


def is_own(file: Traversable) -> bool:
    """Whether a config file is the user's."""
    own = user_folder()
    return own is not None and str(file).startswith(f"{own}{os.sep}")


def ls(args: list[str]) -> int:
    """Print the choices of one group or of all, or what one of them is; returns the exit code."""
    parser = OptionParser("ls", "What there is, one line each.", out_dir=False)
    parser.add_argument("group", nargs="?", metavar="|".join(f"{group}s" for group in GROUPS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="all about one of them")
    parser.add_argument("--out-dir", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    wanted: tuple[str, ...] = GROUPS
    if options.group:
        if options.group.rstrip("s") not in GROUPS:
            raise UsageError(
                f"ls {options.group}: no such list. {did_you_mean(options.group, [*(g + 's' for g in GROUPS), 'runs'])}"
            )
        wanted = (options.group.rstrip("s"),)
    if options.name:
        return show_one(wanted[0], options.name, options.json)
    listing = {f"{group}s": entries(group) for group in wanted}
    if options.json:
        print(json.dumps(listing if not options.group else next(iter(listing.values())), indent=1, ensure_ascii=False))
    elif sys.stdout.isatty():
        _print(listing)
    else:
        for title, rows in listing.items():
            for row in rows:  # for grep and cut: an entry a line, a tab between its facts
                facts = [str(row["name"]), *(_words(value) for key, value in row.items() if key != "name")]
                print("\t".join(facts if options.group else [title, *facts]))
    return 0


def show_one(group: str, name: str, as_json: bool) -> int:
    """All about one choice: its facts, then its files with the comments in them."""
    if name not in files_of(group):
        raise UsageError(f"ls {group}s {name}: no such {group}. {did_you_mean(name, names(group))}")
    entry = next(row for row in entries(group, [name]))
    config = _read(group, name)
    entry["file"] = str(files_of(group)[name])
    if group == "method":
        entry["rates"] = [f"method.lr.{rate}" for rate in config.get("lr") or {}]
        entry["stages"] = config.get("stages") or ["supervised"]
    if as_json:
        print(json.dumps({**entry, "config": config}, indent=1, ensure_ascii=False, default=str))
        return 0
    for key, value in entry.items():
        if value not in (None, "", []):
            print(f"{key:<12} {_words(value)}")
    for title, file in _parts(group, name).items():
        print(f"\n{title}")
        print(textwrap.indent(file.read_text(encoding="utf-8").rstrip(), "    "))
    return 0


def _parts(group: str, name: str) -> dict[str, Traversable]:
    """The files that one choice is made of, with the key that their values stand under."""
    own = files_of(group)[name]
    found = {f"{FOLDERS.get(group, group).replace('/', '.')}.KEY=VALUE": own}
    listed = (yaml.load(own.read_text(encoding="utf-8"), Loader=_LOADER) or {}).get("defaults", [])
    for default in listed if group == "method" else ():
        for part, choice in default.items() if isinstance(default, dict) else ():
            part = str(part).split()[-1].lstrip("/").removeprefix("method/")
            file = files("peftbench.conf") / "method" / part / f"{choice}.yaml"
            if file.is_file():
                found[f"method.{part}.KEY=VALUE"] = file
    return found


def _words(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    return " ".join(str(value if value is not None else "").split())


def _print(listing: dict[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, rows in listing.items():
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
        columns = [c for c in rows[0] if any(r[c] for r in rows)] if rows else []
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column == "name")
        for row in rows:
            table.add_row(*(_cell(row[c]) for c in columns))
        console.print(table, end="\n\n")


def _cell(value: Any) -> str:
    from rich.markup import escape

    return escape(_words(value))
