"""Made rows are looked through before anything is trained on them. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from peftbench.tasks.base import Row, text_key
from peftbench.tasks.unlabelled import RUN, unshared

if TYPE_CHECKING:
    from peftbench.tasks.base import TaskData
    from peftbench.tasks.protocols import Draw

OVERLAP = f"shares {RUN} characters with an evaluation text"
EQUAL, COPY, REPEATED, EMPTY = "is an evaluation text", "is a train row", "was made before", "is empty"


def evaluation_rows(data: TaskData, draw: Draw) -> Iterator[Row]:
    """All that may be evaluated on: the drawn dev and test rows, and the whole official dev and test splits."""
    yield from (*draw.dev, *draw.test, *(row for rows in draw.extra_tests.values() for row in rows))
    yield from (*data.dev, *data.test, *(row for rows in data.extra_tests.values() for row in rows))


def screened(
    made: Sequence[Row], evaluated: Iterable[Row], train: Iterable[Row], says: Callable[[Row], str]
) -> tuple[list[Row], dict[str, str]]:
    """Rows that may be trained on, and id -> why the others may not: they share `RUN` characters in a row with an
    evaluation text (white space and case apart), or are one, or a train row, or came before, or say nothing.

    Args:
        train: the drawn train rows; none of them is made again.
        says: all that would be trained on of a row: its text; the instruction and the answer.
    """
    evaluated = list(evaluated)
    answers = [Row(row.id, says(row), None) for row in made]
    pieces = unshared([[_line(row.text)] for row in answers], (row.whole for row in evaluated))
    known = {text_key(row): COPY for row in train} | {text_key(row): EQUAL for row in evaluated}
    kept, why = [], {}
    for row, whole, piece in zip(made, answers, pieces, strict=True):
        key = text_key(whole)
        if not whole.text.strip():
            why[row.id] = EMPTY
        elif not piece:
            why[row.id] = OVERLAP
        elif key in known:
            why[row.id] = known[key]
        else:
            known[key] = REPEATED
            kept.append(row)
    return kept, why


def text_of(row: Row) -> str:
    """What a labelled row says."""
    return row.text


def pair_of(row: Row) -> str:
    """An instruction and its answer, or a plain text."""
    return f"{row.text} {row.target}".strip()


def counted(why: dict[str, str]) -> dict[str, float]:
    """How many rows were dropped, by the reason, for the record."""
    return {f"dropped: {reason}": float(count) for reason, count in sorted(Counter(why.values()).items())}


def _line(text: str) -> str:
    return " ".join(text.split())
