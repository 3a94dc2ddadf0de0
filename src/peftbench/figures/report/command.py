"""`peftbench report`: one HTML file that shows the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.errors import UsageError
from peftbench.figures.report.payload import DETAILS
from peftbench.files import write_atomic
from peftbench.options import whole
from peftbench.records.find import no_runs_yet
from peftbench.records.store import Store
from peftbench.views.filters import ViewParser, choose, every_row


def report_command(argv: Sequence[str]) -> int:
    """Run `peftbench report ARGV`; returns the exit code. Raises UsageError for a wrong option or value."""
    options = _parser().parse(argv)
    path = Path(options.out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {path}: the report is a page, so its name must end in .html.")
    rows = every_row(options)
    if not rows:
        print(no_runs_yet(options.out_dir))
        return 0
    rows = choose(rows, options)
    if not rows:
        raise UsageError("No run matches all of these filters together.")
    write_report(Store(options.out_dir), rows, path, options.details)
    size = path.stat().st_size / 2**20
    print(f"{path}: {len(rows):,} runs, {size:,.1f} MiB. One file that needs no network; open it in a browser.")
    return 0


def write_report(store: Store, rows: Sequence[dict], path: Path, details: int = DETAILS) -> None:
    """Write the report of these rows of the leaderboard to `path`, whole or not at all."""
    from peftbench.figures.report.page import page
    from peftbench.figures.report.payload import payload

    write_atomic(path, page(payload(store, rows, details)), durable=False)


def _parser() -> ViewParser:
    parser = ViewParser(
        "report",
        "One HTML file with leaderboard, plots and a page a run. It needs no network and no server.",
        "Example: peftbench report --task masakhanews --out masakhanews.html",
    )
    parser.add_argument("--out", default="report.html", metavar="FILE", help="default: report.html")
    words = f"runs with a page of their own, one of each cell first (default {DETAILS}; some 20 kB each)"
    parser.add_argument("--details", type=whole(0), default=DETAILS, metavar="N", help=words)
    return parser
