"""`peftbench plot`: a figure of the records as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.errors import UsageError
from peftbench.figures import plot
from peftbench.files import write_atomic
from peftbench.records.find import no_runs_yet
from peftbench.records.store import Store
from peftbench.tables.standings import Standings
from peftbench.views.filters import ViewParser, choose, every_row


def plot_command(argv: Sequence[str]) -> int:
    """Run `peftbench plot ARGV`; returns the exit code.

    Raises:
        UsageError: a wrong kind, option or file name, or runs that do not fit into one plot.
    """
    options = _parser().parse(argv)
    if options.kind is None:
        print("Kinds of plots:\n" + kinds())
        return 0
    plot.find(options.kind)
    path = Path(options.out or f"{options.kind}.svg")
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in plot.FORMATS:
        raise UsageError(f"--out {path}: the name must end in {', '.join('.' + f for f in plot.FORMATS)}.")
    every = every_row(options)
    if not every:
        print(no_runs_yet(options.out_dir))
        return 0
    store = Store(options.out_dir)
    standings = Standings(store, choose(every, options), {row["method"] for row in every})
    made = plot.make(options.kind, standings, store)
    write_atomic(path, plot.render(made, suffix), durable=False)
    print("\n".join([f"{path}: {made['title']}", *made["notes"]]))
    return 0


def kinds() -> str:
    """One line a kind."""
    return "\n".join(f"  {name:<11}{plot.find(name).shows}" for name in plot.names())


def _parser() -> ViewParser:
    parser = ViewParser(
        "plot",
        "A figure of the recorded runs as SVG, PDF or PNG, or its data as JSON.",
        "Example: peftbench plot shots --task masakhanews --method dept,lora --out shots.pdf",
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help=", ".join(plot.names()))
    parser.add_argument("--out", metavar="FILE", help="ends in .svg, .pdf, .png or .json; default: KIND.svg")
    return parser
