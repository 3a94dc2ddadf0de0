"""Which runs are compared with which: what a side of a comparison means, and what may not be compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftbench.errors import UsageError, did_you_mean
from peftbench.records.leaderboard import Row
from peftbench.records.naming import filled, nearest, setting_of, tell_apart
from peftbench.records.record import Record

SETTING = ("model", "task", "subset", "shots")
"""What both sides share, unless one of them names it (`dept,shots=5` against `dept,shots=10`)."""

ACROSS = {
    "protocols": ("protocol", "it fixes which rows are train and dev, how k is counted and how a model is chosen"),
    "metrics": ("metric", "one is not on the scale of the other (`--metric NAME` takes one that both have)"),
    "data": ("data_sha", "the data sets differ in their rows, so one may be easier than the other"),
}
"""What is not compared unless told to: the row's column, and why not."""


@dataclass(frozen=True)
class Side:
    """One of the things that are compared.

    Attributes:
        name: as it was typed.
        named: the columns it fixes.
        rows: its finished runs.
    """

    name: str
    named: frozenset[str]
    rows: tuple[Row, ...]


@dataclass
class Match:
    """Runs of two sides in one setting."""

    a: Side
    b: Side
    setting: dict[str, Any]
    rows: tuple[list[Row], list[Row]]
    notes: list[str] = field(default_factory=list)


def side(text: str, rows: Sequence[Row], load: Callable[[str], Record]) -> Side:
    """The side that `text` means: comma-separated method names, run ids, `column=value` and `setting=value`.

    A setting is named as tables name it (`lora,rank=8`), or by its whole key.

    Raises:
        UsageError: there is no such method, run, column, setting or value, or no finished run has them all.
    """
    named: dict[str, str] = {}
    columns = {name for r in rows for name in r}
    for part in filter(None, (p.strip() for p in text.split(","))):
        column, equals, value = part.partition("=")
        if not equals:
            column, value = _meaning(part, rows), part
        if column in columns and value not in {str(r.get(column)) for r in rows}:
            raise UsageError(f"compare: no run has {column}=`{value}`. {nearest(column, value, rows)}")
        if named.setdefault(column, value) != value:
            raise UsageError(f"compare: `{text}` names two values of {column}. Give them as two sides.")
    if not named:
        raise UsageError("compare: an empty name. Give a method, a run id or column=value.")
    chosen = [r for r in rows if all(str(r.get(c)) == value for c, value in named.items() if c in columns)]
    chosen = _with_settings(chosen, {c: value for c, value in named.items() if c not in columns}, columns, load)
    done = tuple(r for r in chosen if r["status"] == "done" and r.get("score") is not None)
    if not done:
        what = f"none of its {len(chosen)} runs is finished" if chosen else "no run has all of these"
        raise UsageError(f"compare: `{text}`: {what}. `peftbench leaderboard` shows the runs there are.")
    return Side(text, frozenset(named), done)


def _meaning(name: str, rows: Sequence[Row]) -> str:
    methods = {r["method"] for r in rows}
    if name in methods:
        return "method"
    if any(r["run_id"] == name for r in rows):
        return "run_id"
    raise UsageError(
        f"compare: `{name}` is neither a method nor a run among these runs. {nearest('method', name, rows)}"
    )


def _with_settings(
    rows: Sequence[Row], named: Mapping[str, str], columns: Collection[str], load: Callable[[str], Record]
) -> list[Row]:
    """The rows whose configs have these settings; one record a variant is read."""
    if not named:
        return list(rows)
    records = {r["variant"]: load(r["run_id"]) for r in {r["variant"]: r for r in rows}.values()}
    for name, value in named.items():
        found = {variant: setting_of(record, name) for variant, record in records.items()}
        known = {words for words in found.values() if words is not None}
        if records and not known:
            raise UsageError(f"compare: no column or setting `{name}`. {did_you_mean(name, columns)}")
        if records and value not in known:
            raise UsageError(f"compare: no run has {name}=`{value}`. {did_you_mean(value, known)}")
        records = {variant: record for variant, record in records.items() if found[variant] == value}
    return [r for r in rows if r["variant"] in records]


def pair_up(a: Side, b: Side, across: Collection[str], metric: str | None) -> tuple[list[Match], list[str]]:
    """The settings that both sides have, and remarks on those that only one has.

    Raises:
        UsageError: they have none in common, or what they have may not be compared.
    """
    columns = _setting_columns(a, b)
    mine, others = (_by(columns, s.rows) for s in (a, b))
    common = [key for key in mine if key in others]
    if not common:
        raise UsageError(_nothing_common(a, b, columns, mine, others))
    matches = [
        match
        for key in common
        for match in _comparable(a, b, dict(zip(columns, key, strict=True)), mine[key], others[key], across, metric)
    ]
    notes = []
    for s, own, other in ((a, mine, others), (b, others, mine)):
        only = [_show(columns, key) for key in own if key not in other]
        if only:
            notes.append(f"only {s.name} was run on {'; '.join(only[:5])}" + (" ..." if len(only) > 5 else ""))
    return matches, notes


def _setting_columns(a: Side, b: Side) -> list[str]:
    """A run id stands for itself; a method without a backbone goes with any model."""
    if {"run_id"} & (a.named | b.named):
        return []
    columns = [c for c in SETTING if c not in a.named | b.named]
    if any(all(r["model"] == "none" for r in s.rows) for s in (a, b)):
        columns = [c for c in columns if c != "model"]
    return columns


def _by(columns: Sequence[str], rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for r in rows:
        groups.setdefault(tuple(r[c] for c in columns), []).append(r)
    return groups


def _comparable(
    a: Side,
    b: Side,
    setting: dict[str, Any],
    mine: list[Row],
    others: list[Row],
    across: Collection[str],
    metric: str | None,
) -> Iterator[Match]:
    """One match for each protocol in common; rows of another metric or other data are left out, with a note."""
    notes: list[str] = []
    for name, (column, why) in ACROSS.items():
        if name == "protocols" or (name == "metrics" and metric is not None):
            continue
        mine, others = _shared(a, b, column, why, name, mine, others, across, notes)
    _, why = ACROSS["protocols"]
    if not {r["protocol"] for r in mine} & {r["protocol"] for r in others}:
        _shared(a, b, "protocol", why, "protocols", mine, others, across, notes)  # refuses, or notes
        yield Match(a, b, setting, (mine, others), notes)
        return
    for protocol in sorted({r["protocol"] for r in mine}):
        both = [r for r in mine if r["protocol"] == protocol], [r for r in others if r["protocol"] == protocol]
        if all(both):
            yield Match(a, b, {**setting, "protocol": protocol}, both, notes)


def _shared(
    a: Side,
    b: Side,
    column: str,
    why: str,
    name: str,
    mine: list[Row],
    others: list[Row],
    across: Collection[str],
    notes: list[str],
) -> tuple[list[Row], list[Row]]:
    """The rows whose value of `column` both sides have; all of them, with a note, if comparing across it was asked."""
    values = [{r[column] for r in rows} for rows in (mine, others)]
    common = values[0] & values[1]
    if common:
        kept = [r for r in mine if r[column] in common], [r for r in others if r[column] in common]
        if len(kept[0]) + len(kept[1]) < len(mine) + len(others):
            notes.append(f"runs with another {column} were left out")
        return kept
    shown = [", ".join(sorted(f"`{str(v)[:12]}`" for v in vs)) for vs in values]
    if name in across:
        notes.append(f"compared across {name}: {a.name} has {column} {shown[0]}, {b.name} {shown[1]}")
        return mine, others
    raise UsageError(
        f"compare: {a.name} has {column} {shown[0]}, {b.name} {shown[1]}. Such numbers are not comparable: {why}. "
        f"`--across {name}` compares them anyway."
    )


def check_one_variant(match: Match, load: Callable[[str], Record]) -> None:
    """Raises UsageError if a side has runs that differ in more than their seeds, naming what differs."""
    for s, rows in zip((match.a, match.b), match.rows, strict=True):
        first: dict[str, Row] = {}
        for r in rows:
            first.setdefault(r["variant"], r)
        if len(first) > 1:
            configs = tell_apart(filled({v: load(r["run_id"]) for v, r in first.items()}), [list(first)])
            raise UsageError(
                f"compare: `{s.name}` stands for {len(first)} different experiments here. Choose: "
                + "; ".join(f"{s.name},variant={v} ({words or v})" for v, words in configs.items())
            )


def _show(columns: Sequence[str], key: tuple[Any, ...]) -> str:
    return ", ".join(f"{c}={v}" for c, v in zip(columns, key, strict=True) if v != "")


def _nothing_common(
    a: Side, b: Side, columns: Sequence[str], mine: Collection[tuple[Any, ...]], others: Collection[tuple[Any, ...]]
) -> str:
    shown = ["; ".join(_show(columns, key) for key in list(keys)[:3]) for keys in (mine, others)]
    return (
        f"compare: {a.name} and {b.name} were never run in the same setting. {a.name}: {shown[0]}. "
        f"{b.name}: {shown[1]}. "
        "Run one of them in the other's, or name on both sides what should differ "
        f"(`{a.name},shots=5 {b.name},shots=10`)."
    )
