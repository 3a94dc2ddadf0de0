"""What a table is: `conf/table/*.yaml`, checked, and laid out as one `CellSpec` a cell.

Table, panel, row and column are all a `Part`: what they say of a cell is laid over each other in this order, so a
column may set the metric that the table left open, and a row the method. docs/tables.md explains every key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING
from yaml.nodes import MappingNode, Node, SequenceNode

from peftbench.config.schema import number, one_of
from peftbench.errors import UsageError, did_you_mean
from peftbench.records.ids import EXCLUDED
from peftbench.tables import references
from peftbench.tables.references import Reference

SEEDS = ("seed", "data_seed")
STAND_IN = "a stand-in with a packaged model, few rows and few steps"


@dataclass
class Part:
    """What table, panel, row and column may each say of their cells."""

    run: dict[str, Any] = field(default_factory=dict)
    """Overrides of `peftbench`: they make the command of a cell and say which records it takes."""
    reference: dict[str, str] | None = None
    """Where the paper's number is: `file` and keys of `references.KEYS`. Row and column (and panel) have to give it."""
    metric: str | None = None
    """`score` (the task's main metric), another metric, or a cost column of the leaderboard."""
    margin: str | None = None
    """Differences up to this are of no interest: points ("1.0") or percent of the paper's number ("5%")."""
    missing: str = ""
    """Why this version cannot make the cell. Then it has no `run`."""
    caveat: str = ""
    """Why our number, once made, is no reproduction of the paper's."""
    tune: dict[str, Any] = field(default_factory=dict)
    """Overrides of the search whose choice the cell runs (`tables.tuned`), its seeds too; none without a `search`."""


@dataclass
class LabelledPart(Part):
    """A panel, a row or a column."""

    label: str = MISSING
    fixed: bool = False
    """There is nothing to search: where others are tuned, its cells take the settings as given."""
    offline: bool = False
    """A stand-in for what a paper ran: a packaged model, few rows and steps; `--offline` shows such rows alone."""
    only: list[str] = field(default_factory=list)
    """Columns, and panels, in which a row has cells; elsewhere it is left empty. All of them if none is named."""


@dataclass
class RowPart(LabelledPart):
    """A row."""

    repeat: dict[str, list[int]] = field(default_factory=dict)
    """Seeds in the place of the table's, by their keys: fewer where the answers do not depend on them."""


@dataclass
class ColumnPart(LabelledPart):
    """A column; with `mean_of` its cells are means over other columns of the same row."""

    mean_of: list[str] = field(default_factory=list)


@dataclass
class ClaimConfig:
    """A sentence of a paper with a number in it, and how ours is computed from the table's cells."""

    label: str = MISSING
    kind: str = one_of("value", "difference", "relative", "saving", "best", default="value")
    row: str = ""
    of: str = ""
    columns: list[str] = field(default_factory=list)
    panel: str = ""
    at_least: bool = False
    """The paper says "over": more than its number agrees with it too."""
    reference: dict[str, str] | None = None
    margin: str | None = None
    missing: str = ""
    caveat: str = ""


@dataclass
class TableConfig(Part):
    """`conf/table/*.yaml`."""

    title: str = MISSING
    description: str = MISSING
    paper: str = MISSING
    backbones: dict[str, str] = field(default_factory=dict)
    """The paper's name of a backbone -> ours. The empty name stands for sources that name none."""
    paper_runs: int = number(1, ge=1)
    """Runs behind a number of the paper."""
    repeat: dict[str, list[int]] = field(default_factory=lambda: {"seed": [1]})
    """Seeds that every cell asks for, unless its row says otherwise: `seed`, `data_seed` or both."""
    panels: list[LabelledPart] = field(default_factory=list)
    rows: list[RowPart] = MISSING
    columns: list[ColumnPart] = MISSING
    claims: list[ClaimConfig] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CellSpec:
    """One cell, before any record was looked at.

    Attributes:
        run: overrides without seeds; what the command line said of the table laid over what its file says.
        repeat: seeds asked for.
        own_runs: number of runs that the seeds of the table's file make, whatever the command line asks for.
        changed: settings that the command line changed, so that the paper's number no longer is the same experiment's.
        mean_of: columns whose mean the cell is; empty for a cell of its own runs.
        tune: overrides and seeds of the search that chooses the cell's settings; empty for settings as given.
        offline: the row is a stand-in for what a paper ran, and no rival of the others.
        outside: the row has no cell in this column or panel, and nothing is printed there.
        paper: the paper's number, if one was seen.
    """

    panel: str
    row: str
    column: str
    run: Mapping[str, Any]
    repeat: Mapping[str, Sequence[int]]
    own_runs: int
    changed: Mapping[str, Any]
    metric: str
    margin: str
    missing: str
    caveat: str
    mean_of: tuple[str, ...]
    paper: Reference | None
    tune: Mapping[str, Any] = field(default_factory=dict)
    offline: bool = False
    outside: bool = False


def names() -> list[str]:
    """The tables there are: the package's and the user's own (`config.user_files`)."""
    return sorted({*_packaged(), *own_files()})


def _packaged() -> list[str]:
    found = (item.name for item in files("peftbench.conf").joinpath("table").iterdir())
    return [name[: -len(".yaml")] for name in found if name.endswith(".yaml")]


def own_files() -> dict[str, Path]:
    """Name -> file of each table of the user's own. A name that the package has too is the package's."""
    from peftbench.config.user_files import user_folder

    folder = user_folder()
    found = sorted((folder / "table").glob("*.yaml")) if folder else []
    return {path.stem: path for path in found if path.stem not in _packaged()}


def load(name: str) -> TableConfig:
    """A table of the package or of the user's.

    Raises:
        UsageError: there is none of this name, or its file is wrong; the message names the key, and of a file of the
            user's the line.
    """
    if (own := own_files()).get(name):
        return load_own(name, own[name])
    if name not in names():
        raise UsageError(f"table {name}: there is none. {did_you_mean(name, names())}")
    return parse(name, files("peftbench.conf").joinpath("table", f"{name}.yaml").read_text(encoding="utf-8"))


def load_own(name: str, path: Path) -> TableConfig:
    """A table from a file of the user's."""
    from peftbench.config import user_files

    text = user_files.read_text(path)
    root = user_files.parse(path, text)
    try:
        return parse(name, text)
    except UsageError as error:
        words = str(error)
        key = words.removeprefix(f"table {name}.").split(":")[0] if words.startswith(f"table {name}.") else ""
        raise UsageError(f"{path}:{_line(root, key)}: {words}") from None


def _line(root: Node, key: str) -> int:
    """The line of a dotted key as messages have it (`rows[2].run`, `columns.LABEL.mean_of`), as far as it is found."""
    node, line = root, 1
    for part in filter(None, re.split(r"[.\[\]]+", key)):
        inner: Node | None = None
        if isinstance(node, SequenceNode):
            inner = node.value[int(part)] if part.isdecimal() and int(part) < len(node.value) else _labelled(node, part)
            line = inner.start_mark.line + 1 if inner else line
        elif isinstance(node, MappingNode):
            for name, value in node.value:
                if name.value == part:
                    inner, line = value, name.start_mark.line + 1
        if inner is None:
            break
        node = inner
    return line


def _labelled(node: SequenceNode, label: str) -> Node | None:
    """The member of a list whose `label` that is."""
    for member in node.value:
        if isinstance(member, MappingNode) and any((k.value, v.value) == ("label", label) for k, v in member.value):
            return member
    return None


@cache
def parse(name: str, text: str) -> TableConfig:
    """A table from the text of its file, checked."""
    from peftbench.config.sections import build

    plain = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # in C it takes a tenth of the time
    if not isinstance(plain, dict):
        raise UsageError(f"table {name}: the file is not a mapping of keys to values.")
    table: TableConfig = build(TableConfig, plain, f"table {name}")
    _check(name, table)
    return table


def _check(name: str, table: TableConfig) -> None:
    """What types alone cannot say: labels are unique and known, seeds are seeds, a claim has what its kind needs."""
    from peftbench.config.sections import check_ranges

    labels = {axis: [p.label for p in getattr(table, axis)] for axis in ("panels", "rows", "columns")}
    for axis, given in labels.items():
        if twice := {label for label in given if given.count(label) > 1}:
            raise UsageError(f"table {name}: {axis} has `{sorted(twice)[0]}` twice.")
    for where, repeat in (("", table.repeat), *((f"rows.{row.label}.", row.repeat) for row in table.rows)):
        for key, seeds in repeat.items():
            if key not in SEEDS:
                raise UsageError(f"table {name}.{where}repeat.{key}: no such seed. {did_you_mean(key, SEEDS)}")
            if not seeds:
                raise UsageError(f"table {name}.{where}repeat.{key}: needs at least one seed, as in {key}: [1].")

    def known(label: str, axis: str, where: str) -> None:
        if label not in labels[axis]:
            raise UsageError(
                f"table {name}.{where}: no such {axis[:-1]}, `{label}`. {did_you_mean(label, labels[axis])}"
            )

    for row in table.rows:
        for label in row.only:
            known(label, "panels" if label in labels["panels"] else "columns", f"rows.{row.label}.only")
    for column in table.columns:
        for label in column.mean_of:
            known(label, "columns", f"columns.{column.label}.mean_of")
    for claim in table.claims:
        where = f"claims.{claim.label}"
        check_ranges(claim, f"table {name}.{where}")
        if claim.missing:
            continue
        if not claim.columns or (claim.kind != "best" and not claim.row) or (_compares(claim) and not claim.of):
            raise UsageError(f"table {name}.{where}: `{claim.kind}` needs columns, row, and for a comparison `of`.")
        for axis, given in (("rows", [claim.row, claim.of]), ("columns", claim.columns), ("panels", [claim.panel])):
            for label in filter(None, given):
                known(label, axis, where)


def _compares(claim: ClaimConfig) -> bool:
    return claim.kind in ("difference", "relative", "saving")


def lay_out(name: str, table: TableConfig, overrides: Mapping[str, Any] | None = None) -> list[CellSpec]:
    """Every cell of a table, panel by panel, row by row.

    Args:
        name: of the table, for messages.
        table: its config.
        overrides: what the command line said, as `read_overrides` gives it.

    Raises:
        UsageError: an override sets what the rows or columns vary, or a reference key finds two numbers.
    """
    given = dict(overrides or {})
    asked = {key: given.pop(key) for key in SEEDS if key in given}
    cells = []
    for panel in table.panels or [LabelledPart(label="")]:
        for row in table.rows:
            for column in table.columns:
                parts: list[Part] = [table, panel, row, column]
                _refuse_varied(name, parts[1:], given)
                cells.append(_cell(name, parts, panel.label, given, asked))
    return cells


def _refuse_varied(name: str, parts: Sequence[Part], given: Mapping[str, Any]) -> None:
    for part in parts:
        for key in part.run.keys() & given.keys():
            raise UsageError(
                f"{key}={given[key]}: table {name} varies {key} itself. Choose with `--only LABEL,...` instead."
            )


def _cell(
    name: str, parts: Sequence[Part], panel: str, given: Mapping[str, Any], asked: Mapping[str, Sequence[int]]
) -> CellSpec:
    """One cell; `asked` are the seeds of the command line."""
    table, _, row, column = parts
    assert isinstance(table, TableConfig)
    assert isinstance(row, RowPart)
    assert isinstance(column, ColumnPart)
    repeat = {**table.repeat, **row.repeat}
    own: dict[str, Any] = {}
    tune: dict[str, Any] = {}
    for part in parts:
        own.update(part.run)
        tune.update(part.tune)
    elsewhere = _elsewhere(parts)
    is_tuned = "search" in tune and not any(getattr(part, "fixed", False) for part in parts)
    changed = {k: v for k, v in given.items() if decides(k) and text(own.get(k)) != text(v)}
    return CellSpec(
        panel=panel,
        row=row.label,
        column=column.label,
        run={**own, **given},
        repeat={**repeat, **asked},
        own_runs=math.prod(map(len, repeat.values())) * max(1, len(column.mean_of)),
        changed=changed,
        metric=(metric := _last(parts, "metric") or "score"),
        margin=_last(parts, "margin") or "1.0",
        missing=elsewhere
        or _last(parts, "missing")
        or ("nothing is searched" if metric.startswith("tuning_") and not is_tuned else ""),
        caveat=_last(parts, "caveat") or (STAND_IN if row.offline else ""),
        mean_of=tuple(column.mean_of),
        paper=None if elsewhere else _paper(f"{name}, {row.label}, {column.label}", parts),
        tune=tune if is_tuned else {},
        offline=row.offline,
        outside=bool(elsewhere),
    )


def _elsewhere(parts: Sequence[Part]) -> str:
    """Why a row that is for some columns or panels only has no cell here; "" if it has."""
    table, panel, row, column = parts
    assert isinstance(table, TableConfig)
    wanted = getattr(row, "only", [])
    for axis, part in ((table.panels, panel), (table.columns, column)):
        labels = {p.label for p in axis} & {*wanted}
        if labels and getattr(part, "label", "") not in labels:
            return f"this row is for {', '.join(wanted)}"
    return ""


def decides(key: str) -> bool:
    """Whether an override can change a result; where files lie and who is told cannot."""
    return not any(key == excluded or key.startswith(f"{excluded}.") for excluded in EXCLUDED)


def _last(parts: Sequence[Part], key: str) -> Any:
    """What the most particular part says."""
    return next((value for part in reversed(parts) if (value := getattr(part, key))), "")


def _paper(where: str, parts: Sequence[Part]) -> Reference | None:
    """The paper's number of a cell: only where the table and every part of the cell say where it is."""
    table, panel, row, column = parts
    needed = [table, row, column, *([panel] if getattr(panel, "label", "") else [])]
    if any(part.reference is None for part in needed):
        return None
    merged: dict[str, str] = {}
    for part in parts:
        merged.update(part.reference or {})
    return one_reference(where, merged)


def one_reference(where: str, keys: Mapping[str, str]) -> Reference | None:
    """The number that `keys` (with `file`) find; None if there is none.

    Raises:
        UsageError: a key does not exist, or two numbers agree with the keys.
    """
    wanted = dict(keys)
    file = wanted.pop("file", "")
    for key in wanted:
        if key not in references.KEYS:
            raise UsageError(f"table {where}: reference.{key}: no such key. {did_you_mean(key, references.KEYS)}")
    found = references.find(references.load(file), wanted)
    if len(found) > 1:
        raise UsageError(f"table {where}: {len(found)} numbers of {file}.csv agree with {wanted}; say more.")
    return found[0] if found else None


def read_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE arguments as a dictionary; seeds may be lists.

    Raises:
        UsageError: an argument is no KEY=VALUE, or a list is given for what is not a seed.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise UsageError(f"{argument}: not KEY=VALUE. Example: peftbench table NAME model=minilm seed=1,2,3")
        if key in SEEDS:
            if not all(part.isdecimal() for part in value.split(",")):
                raise UsageError(f"{argument}: seeds are whole numbers, as in {key}=1,2,3.")
            found[key] = [int(part) for part in value.split(",")]
        elif "," in value and value[0] not in "[{'\"":
            raise UsageError(f"{argument}: a cell has one {key}; only seed and data_seed may be lists here.")
        else:
            found[key] = value
    return found


def text(value: Any) -> str:
    """One spelling of a value in YAML and on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return "[" + ",".join(map(text, value)) + "]" if isinstance(value, (list, tuple)) else str(value)
