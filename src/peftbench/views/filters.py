"""Which runs a view is about: the options that all views share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from peftbench.errors import UsageError
from peftbench.options import OptionParser
from peftbench.records import leaderboard
from peftbench.records.find import existing_store
from peftbench.records.leaderboard import Row, left_out_words
from peftbench.records.naming import nearest

FILTERS = ("task", "subset", "protocol", "shots", "model", "method", "metric", "status", "seed", "data_seed")


class ViewParser(OptionParser):
    """A parser with the filters: all of them, or those named."""

    def __init__(self, command: str, description: str, epilog: str, filters: Sequence[str] = FILTERS) -> None:
        super().__init__(command, description, epilog, json=False)
        for name in filters:
            dashed = "--" + name.replace("_", "-")
            names = [dashed] if "_" not in name else [dashed, "--" + name]
            self.add_argument(*names, metavar="A,B", help=f"only runs with one of these values of {name}")
        self.add_argument("--all", action="store_true", help="with runs of older results versions (docs/records.md)")


def every_row(options: argparse.Namespace) -> list[Row]:
    """Rows of the runs in the folder that the options name; without `--all`, of those that would be the same today,
    and on stderr how many others there are.

    Raises:
        UsageError: the folder is not there.
    """
    rows = leaderboard.current_rows(existing_store(options.out_dir))
    current = rows if options.all else [row for row in rows if not row["outdated"]]
    if left_out := len(rows) - len(current):
        print(f"{left_out_words(left_out)}; --all shows them", file=sys.stderr)
    return current


def choose(rows: Sequence[Row], options: argparse.Namespace) -> list[Row]:
    """The rows that pass all filters.

    Raises:
        UsageError: no run has a value that was asked for.
    """
    wanted = {name: _values(given, name, rows) for name in FILTERS if (given := getattr(options, name, None))}
    return [r for r in rows if all(str(r[name]) in values for name, values in wanted.items())]


def _values(given: str, name: str, rows: Sequence[Row]) -> set[str]:
    """The values asked for, each of which some run must have."""
    values = {value.strip() for value in given.split(",")}
    present = {str(r[name]) for r in rows}
    for value in sorted(values - present if rows else ()):
        raise UsageError(f"No run has {name}=`{value}`. {nearest(name, value, rows, '--{} {}')}")
    return values
