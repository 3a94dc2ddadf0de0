"""Records as a table of pandas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftbench.records import leaderboard
from peftbench.records.record import Record

if TYPE_CHECKING:
    import pandas


def frame_of(records: Iterable[Record]) -> pandas.DataFrame:
    """A row a run, in the order given, with the columns of `leaderboard.csv`."""
    import pandas

    rows = [leaderboard.row(record) for record in records]
    return pandas.DataFrame(rows, columns=leaderboard.columns(rows))
