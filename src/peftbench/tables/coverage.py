"""Where each number of each reference file is printed, or why it is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files

import yaml

from peftbench.errors import UsageError
from peftbench.tables import references, spec
from peftbench.tables.references import Reference


@dataclass
class Account:
    """One reference file: number of cells, cells by table, and cells by reason; `unaccounted` has to be empty.

    Attributes:
        twice: cells that are printed although a reason says that they are not, or that have two reasons.
    """

    name: str
    cells: int
    printed: dict[str, int] = field(default_factory=dict)
    unprinted: dict[str, int] = field(default_factory=dict)
    unaccounted: list[Reference] = field(default_factory=list)
    twice: list[Reference] = field(default_factory=list)


def printed_by_table() -> dict[str, set[Reference]]:
    """Table -> the numbers that it prints, in cells and in claims."""
    found = {}
    for name in spec.names():
        table = spec.load(name)
        cells = {c.paper for c in spec.lay_out(name, table) if c.paper is not None}
        for claim in table.claims:
            if claim.reference is not None:
                where = f"{name}, {claim.label}"
                paper = spec.one_reference(where, {**(table.reference or {}), **claim.reference})
                if paper is None:
                    raise UsageError(f"table {where}: the reference finds no number.")
                cells.add(paper)
        found[name] = cells
    return found


def unprinted() -> list[tuple[set[Reference], str]]:
    """The rules of `unprinted.yaml`: numbers, and the reason that covers them.

    Raises:
        UsageError: a rule covers no number.
    """
    rules = yaml.safe_load((files("peftbench.tables.reference_data") / "unprinted.yaml").read_text(encoding="utf-8"))
    found = []
    for rule in rules:
        covered = set(references.find(references.load(rule["file"]), rule.get("where") or {}))
        if not covered:
            raise UsageError(f"unprinted.yaml: {rule['file']} {rule.get('where')} covers no number.")
        found.append((covered, rule["reason"]))
    return found


def account() -> list[Account]:
    """Every reference file with what became of its numbers."""
    tables, rules = printed_by_table(), unprinted()
    accounts = []
    for name in references.names():
        numbers = references.load(name)
        found = Account(name, len(numbers))
        for number in numbers:
            where = [table for table, cells in tables.items() if number in cells]
            reasons = [reason for covered, reason in rules if number in covered]
            for key, counts in [*((t, found.printed) for t in where), *((r, found.unprinted) for r in reasons)]:
                counts[key] = counts.get(key, 0) + 1
            if not where and not reasons:
                found.unaccounted.append(number)
            if reasons and (where or len(reasons) > 1):
                found.twice.append(number)
        accounts.append(found)
    return accounts


def to_markdown() -> str:
    """The page docs/references.md."""
    lines = [
        "# Papers' numbers",
        "",
        "Numbers that were seen in a source lie in `peftbench/references/*.csv`; `peftbench table NAME` prints them "
        "beside ours. This page says where each number is printed, or why it is not. It is written by "
        "`peftbench table --coverage --out docs/references.md` (`make references`), and a test keeps it complete.",
        "",
        "| file | numbers | printed in | not printed |",
        "| --- | ---: | --- | --- |",
    ]
    for one in account():
        printed = ", ".join(f"`{table}` ({count})" for table, count in one.printed.items())
        reasons = "; ".join(f"{reason} ({count})" for reason, count in one.unprinted.items())
        missing = f" **{len(one.unaccounted)} unaccounted for**" if one.unaccounted else ""
        empty = "" if one.cells else "no number of this paper was seen in a source"
        lines.append(f"| {one.name} | {one.cells} | {printed} | {reasons or empty}{missing} |")
    return "\n".join(lines) + "\n"
