"""Texts in lower case, by the rules of a language: `task.lowercase`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftbench.tasks.base import Row, TaskData

TURKISH = (("I\u0307", "i"), ("\u0130", "i"), ("I", "\u0131"))
"""Before Python's own rules, which take `I` for a dotted i, and make of a dotted capital one an i with a second dot."""


def lower(text: str, how: str | None) -> str:
    """`plain`: as Unicode does it without a language. `turkish`: I -> dotless i, dotted capital I -> i. None: as it is.

    >>> lower("ISPARTA İLİ", "turkish")
    'ısparta ili'
    """
    if how is None:
        return text
    for capital, small in TURKISH if how == "turkish" else ():
        text = text.replace(capital, small)
    return text.lower()


def lowered(data: TaskData, how: str) -> TaskData:
    """The task with all texts of its rows in lower case; targets stay."""

    def rows(of: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(lower_row(row, how) for row in of)

    splits = {name: rows(getattr(data, name)) for name in ("train", "dev", "test", "unlabeled")}
    extra = {name: rows(of) for name, of in data.extra_tests.items()}
    return replace(data, **splits, extra_tests=extra, lowercase=how)  # type: ignore[arg-type]


def lower_row(row: Row, how: str | None) -> Row:
    """A row with all its texts in lower case."""
    if how is None:
        return row
    parts = None if row.parts is None else {name: lower(text, how) for name, text in row.parts.items()}
    pair = None if row.pair is None else lower(row.pair, how)
    return replace(row, text=lower(row.text, how), pair=pair, parts=parts)
