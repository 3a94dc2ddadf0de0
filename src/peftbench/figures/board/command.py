"""`peftbench board`: the folder with what can be read from a tuned table."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.figures import budget, plot
from peftbench.figures.plot import Data
from peftbench.files import write_atomic
from peftbench.options import OptionParser
from peftbench.records.find import existing_store
from peftbench.records.store import Store
from peftbench.tables import spec
from peftbench.tables.table import Table, make_table

if TYPE_CHECKING:
    from peftbench.figures.board.reading import Reading

REPORT_DETAILS = 20
"""Runs of the report with a page of their own: the board's report is about its cells."""


def board_command(argv: Sequence[str]) -> int:
    """Run `peftbench board ARGV`; returns the exit code. Raises UsageError for a wrong name or an empty table."""
    options = _parser().parse(argv)
    write_board(options.name, options.overrides, existing_store(options.out_dir), options.to, options.out_dir)
    return 0


def write_board(name: str, overrides: Sequence[str], store: Store, to: Path, out_dir: str) -> None:
    """Write the page, the whole table, the pictures and the report of a table into a folder.

    Args:
        overrides: laid over every cell's own, as in `peftbench table`.
    """
    from peftbench.figures.board.page import page
    from peftbench.figures.board.reading import effort, read
    from peftbench.tables.formats import FORMATS

    given = spec.read_overrides(overrides)
    table = make_table(name, spec.load(name), store, given)
    found = read(table, store)
    pictures, fronts, notes = _pictures(found, store)
    curve = _budget(f"{name}-budget", store, given)
    if isinstance(curve, str):
        notes.append(curve)
    else:
        pictures["budget.svg"] = (curve, "score by tuning budget")
    for file, (made, _) in pictures.items():
        write_atomic(to / file, plot.render(made, "svg"), durable=False)
    shown = {file: words for file, (_, words) in pictures.items()}
    text = page(found, store, effort(table, store), fronts, shown, _commands(name, overrides, out_dir, to), notes)
    write_atomic(to / "table.md", FORMATS["md"](table, out_dir).encode(), durable=False)
    _write_report(table, store, to / "report.html")
    write_atomic(to / "README.md", text.encode(), durable=False)
    print(f"{to}/README.md, table.md, report.html and {len(pictures)} pictures")


def _parser() -> OptionParser:
    words = "What can be read from a table whose cells were tuned: ties first, ranks, gains of tuning, Pareto fronts."
    parser = OptionParser("board", words, "Example: peftbench board --out-dir results --to docs/board", json=False)
    parser.add_argument("name", nargs="?", default="board", metavar="TABLE", help="default: board; docs/board.md")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="as given to `peftbench table`")
    parser.add_argument("--to", type=_folder, default=Path("board"), metavar="FOLDER", help="default: board")
    return parser


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is a file; name a folder.")
    return path


def _pictures(found: Reading, store: Store) -> tuple[dict[str, tuple[Data, str]], dict[str, Data], list[str]]:
    """File name -> data and words of each; the fronts by what they average over; and why a picture is not there."""
    from peftbench.figures import pareto
    from peftbench.figures.board.reading import standings

    pictures: dict[str, tuple[Data, str]] = {}
    fronts: dict[str, Data] = {}
    notes: list[str] = []
    for track, grid in found.tracks.items():
        try:
            made = plot.make("ranks", standings(grid, store), store)
            pictures[f"ranks-{track.replace(' ', '-')}.svg"] = (made, f"average ranks, {track}")
        except UsageError as error:
            notes.append(f"No picture of ranks, {track}: {error}")
    by_metric: dict[str, list[str]] = {}
    for column, cells in found.tuned.items():
        by_metric.setdefault(next(iter(cells.values())).groups[0].metric, []).append(column)
    for metric, columns in by_metric.items():
        some = standings(found.tuned, store, columns)
        made = {**pareto.data(some, store, pareto.COUNTED), "kind": "pareto", "looks": plot.looks(some)}
        made["notes"] = [*made["notes"], *some.notes]
        over = ", ".join(columns)
        fronts[over] = made
        pictures[f"pareto-{metric}.svg"] = (made, f"{metric} against cost: {over}")
    return pictures, fronts, notes


def _budget(name: str, store: Store, given: Mapping[str, Any]) -> Data | str:
    """The data of the plot of a table of budgets, or why there is none."""
    try:
        return {**budget.of_table(make_table(name, spec.load(name), store, given)), "kind": "budget", "looks": {}}
    except UsageError as error:
        return f"No picture of the tuning budget: {error}"


def _write_report(table: Table, store: Store, path: Path) -> None:
    from peftbench.figures.report.command import write_report

    rows = {r["run_id"]: r for cell in table.cells.values() for group in cell.groups for r in group.runs}
    write_report(store, list(rows.values()), path, REPORT_DETAILS)


def _commands(name: str, overrides: Sequence[str], out_dir: str, to: Path) -> list[str]:
    tables = [name, *(other for other in [f"{name}-budget"] if other in spec.names())]
    place = "".join(f" {shlex.quote(word)}" for word in overrides)
    place += "" if out_dir == "results" else f" --out-dir {shlex.quote(out_dir)}"
    return [*(f"peftbench table {table} --run{place}" for table in tables), f"peftbench board {name}{place} --to {to}"]
