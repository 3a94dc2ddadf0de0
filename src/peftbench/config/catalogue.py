"""What there is: the choices of each axis with one line each, read from the config files themselves."""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from peftbench.errors import UsageError, did_you_mean

GROUPS = ("model", "method", "task", "protocol", "table")


def names(group: str) -> list[str]:
    """Choices of a config group; a choice in a sub-folder is `folder/name`."""
    return sorted(_files(group))


def entries(group: str) -> list[dict[str, Any]]:
    """One dictionary a choice: `name`, `description` and a few facts that depend on the group."""
    facts = {
        "model": ("family", "languages", "licence", "source"),
        "method": ("fits", "trained", "paper"),
        "task": ("languages", "licence", "main_metric", "subsets"),
        "protocol": ("unit", "dev", "select"),
        "table": ("paper",),
    }[group]
    rows = []
    for name in names(group):
        config = _read(group, name)
        if group == "method":
            config |= measured().get(name, {})
        row = {"name": name, "description": config.get("description", "")}
        for fact in facts:
            value = config.get(fact)
            row[fact] = list(value) if isinstance(value, dict) else value
        rows.append(row)
    return rows


def _files(group: str) -> dict[str, Traversable]:
    """Choice -> YAML file. Sub-folders that are groups of their own (method/tuner) are left out."""
    found: dict[str, Traversable] = {}
    root = files("peftbench.conf") / group
    own_groups = ("tuner", "formulation", "self_training")
    for item in root.iterdir():
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
    config = yaml.safe_load(_files(group)[name].read_text(encoding="utf-8")) or {}
    base: dict[str, Any] = {}
    for default in config.pop("defaults", []):
        if isinstance(default, str) and default != "_self_":
            base.update(_read(group, default))
    chosen = config.get("subset")
    if chosen in base.get("subsets", {}):
        own = base["subsets"][chosen]
        return {**base, **(own or {}), **config, "subsets": {chosen: own}}
    return {**base, **config}


def ls(args: list[str]) -> int:
    """Print the choices of one group or of all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="peftbench ls", description="What there is, one line each.")
    parser.add_argument("group", nargs="?", metavar="models|methods|tasks|protocols|tables")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args(args)
    wanted: tuple[str, ...] = GROUPS
    if options.group:
        if options.group.rstrip("s") not in GROUPS:
            raise UsageError(
                f"ls {options.group}: no such list. {did_you_mean(options.group, [*(g + 's' for g in GROUPS), 'runs'])}"
            )
        wanted = (options.group.rstrip("s"),)
    listing = {f"{group}s": entries(group) for group in wanted}
    if options.json:
        print(json.dumps(listing if not options.group else next(iter(listing.values())), indent=1, ensure_ascii=False))
        return 0
    _print(listing)
    return 0


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

    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    return escape(str(value if value is not None else ""))
