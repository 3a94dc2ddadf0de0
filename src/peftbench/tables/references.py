"""Numbers of papers, as they were seen in a source: facts to print beside ours, never to train or choose by.

They lie in `peftbench/references/*.csv`, all with the columns of `COLUMNS`. `source` says where in (or about) the paper
a number was read. Numbers that somebody only remembers are not among them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from peftbench.errors import UsageError, did_you_mean

COLUMNS = ("paper", "source", "method", "model", "task", "shots", "metric", "value", "sd")
KEYS = ("paper", "source", "method", "model", "task", "shots", "metric")
"""What a number can be found by, beside its file."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One number of a paper.

    Attributes:
        file: name of the CSV file without its ending.
        line: of the number in the file, from 2; file and line name a cell.
        source: the place where it was read: abstract, a table, a reprint in another paper, a third-party summary.
        method, model, task, shots, metric: as that source calls them; empty where it says nothing.
        printed: the number as printed there, so that its digits are kept.
        value: the number.
        sd: standard deviation over the paper's runs, where it prints one.
    """

    file: str
    line: int
    paper: str
    source: str
    method: str
    model: str
    task: str
    shots: str
    metric: str
    printed: str
    value: float
    sd: float | None


def names() -> list[str]:
    """The reference files there are, without their ending."""
    found = (item.name for item in files("peftbench.tables.reference_data").iterdir())
    return sorted(name[: -len(".csv")] for name in found if name.endswith(".csv"))


@cache
def load(name: str) -> tuple[Reference, ...]:
    """All numbers of one file, in its order.

    Raises:
        UsageError: there is no such file, or a line of it cannot be read.
    """
    if name not in names():
        raise UsageError(f"reference file `{name}`: there is none. {did_you_mean(name, names())}")
    return parse(name, (files("peftbench.tables.reference_data") / f"{name}.csv").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> tuple[Reference, ...]:
    """The numbers in the text of a reference file. Raises UsageError with file and line if one cannot be read."""
    lines = list(csv.reader(io.StringIO(text)))
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UsageError(f"{name}.csv, line 1: the columns have to be {','.join(COLUMNS)}.")
    found = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(COLUMNS):
            raise UsageError(f"{name}.csv, line {number}: {len(cells)} cells, there are {len(COLUMNS)} columns.")
        *keys, printed, sd = cells
        try:
            values = {"printed": printed, "value": float(printed), "sd": float(sd) if sd else None}
            found.append(Reference(file=name, line=number, **dict(zip(KEYS, keys, strict=True)), **values))  # type: ignore
        except ValueError:
            raise UsageError(f"{name}.csv, line {number}: value `{printed}` or sd `{sd}` is not a number.") from None
    return tuple(found)


def find(references: Iterable[Reference], where: Mapping[str, str]) -> list[Reference]:
    """Those that agree with every key of `where` (see `KEYS`)."""
    return [r for r in references if all(getattr(r, key) == str(value) for key, value in where.items())]
