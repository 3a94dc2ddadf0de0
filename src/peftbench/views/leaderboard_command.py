"""`peftbench leaderboard`: the records as a table, filtered, sorted, or averaged over seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from peftbench.errors import UsageError, did_you_mean
from peftbench.options import whole
from peftbench.records import leaderboard
from peftbench.records.find import no_runs_yet
from peftbench.records.leaderboard import NONE, Row
from peftbench.records.naming import BLOCK, method_names
from peftbench.records.seen import ABOUT, MARK, TEXTS, remarks
from peftbench.records.store import Store
from peftbench.statistics.pscp import of_rows, read_constants
from peftbench.views.filters import ViewParser, choose, every_row
from peftbench.views.summary import printable

TABLE_ROWS = 100
SPREAD = "±: standard deviation of the score over runs (draws and seeds)"
INTERVAL = (
    "interval: 95 %, of the mean over draws, seeds and test items; ties: methods of one setting that share a letter "
    "are not told apart (Holm, 5 %), a is the best"
)

# fmt: off
_RUN_COLUMNS = [
    "run_id", "status", "task", "subset", "protocol", "shots", "model", "method", "tricks", "noise", "data_seed",
    "seed", "metric", "score", "trainable_params", "train_seconds", "total_seconds", "train_peak_mib", "precision",
    "tuned", "seen", "test_texts",
]
_GROUP_COLUMNS = [
    "task", "subset", "protocol", "shots", "model", "method", "metric", "score", "interval", "ties", "n", "draws",
    "seeds", "failed", "trainable_params", "train_seconds", "train_cpu_seconds", "train_peak_mib", "tuned", "seen",
    "test_texts",
]
# fmt: on
_SETTINGS = (
    "status",
    "task",
    "subset",
    "protocol",
    "shots",
    "data_seed",
    "seed",
    "metric",
    "precision",
    "draws",
    "seeds",
    "failed",
    "tuned",
)  # fmt: skip
"""Columns that move to the line above the table when all rows agree in them."""


def leaderboard_command(argv: Sequence[str]) -> int:
    """Run `peftbench leaderboard ARGV`; returns the exit code. Raises UsageError for a wrong option or value."""
    options = _parser().parse(argv)
    every = every_row(options)
    chosen = choose(every, options)
    notes: list[str] = []
    if options.group:
        chosen, notes = with_intervals(Store(options.out_dir), chosen)
    constants, timed = (
        None if options.pscp is None else read_constants(options.pscp),
        "inference" in (options.pscp or ""),
    )
    if constants is not None:
        chosen = [
            {**r, "pscp": found and found.value} for r, found in zip(chosen, of_rows(chosen, constants), strict=True)
        ]
    if options.sort:
        chosen = _sorted(chosen, options.sort)
    if options.json:
        print(json.dumps(chosen[: options.limit], indent=1))
    elif not every:
        print(no_runs_yet(options.out_dir))
    elif not chosen:
        print("No run matches all of these filters together.")
    else:
        columns = list(_GROUP_COLUMNS if options.group else _RUN_COLUMNS)
        if constants is not None:
            columns.insert(columns.index("score") + 1, "pscp")
        if options.csv or options.latex:
            sys.stdout.write((to_csv if options.csv else to_latex)(chosen[: options.limit], columns))
            return 0
        _print_table(chosen, options.limit or TABLE_ROWS, columns, options.markdown, [*notes, *remarks(chosen)])
        if constants is not None:
            print(constants.describe(timed))
    return 0


def print_means(store: Store, rows: Sequence[Row]) -> None:
    """The table of `--group` for some runs, without what their predictions would have to be read for."""
    _print_table(_named(store, rows), TABLE_ROWS, _GROUP_COLUMNS, markdown=False, notes=[SPREAD])


def _named(store: Store, rows: Sequence[Row]) -> list[Row]:
    """Means over the seeds, each method with the settings that tell its rows apart."""
    names = method_names(store, rows)
    return [{**r, "method": names[r["variant"]]} for r in leaderboard.group(rows)]


def with_intervals(store: Store, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Means over the seeds with `score_low`, `score_high`, `covers` and `ties`, and what is to be known of them."""
    from peftbench.tables.standings import MOST_WITH_ITEMS, Standings

    grouped = _named(store, rows)
    if sum(r["status"] == "done" for r in rows) > MOST_WITH_ITEMS:
        return grouped, [SPREAD, f"no intervals: more than {MOST_WITH_ITEMS} runs; filters that leave fewer bring them"]
    standings = Standings(store, rows)
    cells = {(*cell.block, cell.variant): cell for cell in standings.with_ties()}
    found = []
    for r in grouped:
        cell = cells[(*(r[name] for name in BLOCK), r["variant"])]
        known = {"score_low": cell.low, "score_high": cell.high, "covers": cell.covers, "ties": cell.letters}
        found.append({**r, **known})
    return found, [SPREAD, INTERVAL, *standings.notes]


def _parser() -> ViewParser:
    parser = ViewParser(
        "leaderboard",
        "The recorded runs as a table: one row a run, or means over the seeds with --group.",
        "Example: peftbench leaderboard --task masakhanews --method dept,lora --group --sort score:desc",
    )
    parser.add_argument("--group", action="store_true", help="mean and spread over data and training seeds")
    parser.add_argument(
        "--pscp",
        nargs="?",
        const="",
        metavar="CONSTANTS",
        help="a column with the PEFT-Bench score, which pays for parameters and memory, and with inference=1.2 for "
        "inference time; CONSTANTS as in params=22e6,memory=2,beta=1",
    )
    parser.add_argument("--sort", metavar="COLUMN[:desc]", help="smallest first, or greatest first with :desc")
    parser.add_argument("--limit", type=whole(), metavar="N", help=f"first N rows (tables: {TABLE_ROWS} by default)")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table, for a page or an issue")
    parser.add_argument("--latex", action="store_true", help="a LaTeX table (booktabs), for a paper")
    parser.add_argument("--csv", action="store_true", help="the shown columns as CSV, numbers in full")
    parser.add_argument("--json", action="store_true", help="every column, as JSON")
    return parser


def _sorted(rows: list[Row], order: str) -> list[Row]:
    """Sorted by a column; rows without a value come last either way."""
    column, _, direction = order.partition(":")
    present = {name for r in rows for name in r}
    if rows and column not in present:
        raise UsageError(f"--sort: no column `{column}`. {did_you_mean(column, present)}")
    if direction not in ("", "asc", "desc"):
        raise UsageError(f"--sort {order}: after the colon comes `asc` or `desc`, not `{direction}`.")
    have = [r for r in rows if r.get(column) is not None]
    numbers = all(isinstance(r[column], (int, float)) for r in have)
    have.sort(key=lambda r: r[column] if numbers else str(r[column]), reverse=direction == "desc")
    return have + [r for r in rows if r.get(column) is None]


def to_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """RFC 4180, numbers in full: a score beside its spread and the ends of its interval."""
    wide = {"score": ["score", "score_sd", "score_low", "score_high"] if rows and "score_sd" in rows[0] else ["score"]}
    names = [n for name in columns if name != "interval" for n in wide.get(name, [name])]
    return leaderboard.to_csv([{**r, "tuned": _tuned(r)} for r in rows], names).decode()


def to_latex(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A booktabs table; columns in which all rows agree stand in the caption, empty ones are left out."""
    from peftbench.tables.formats import tex as latex

    rows = [{**r, "tuned": _tuned(r)} for r in rows]
    shown, shared = _split(rows, columns)
    numeric = [all(isinstance(r.get(name), (int, float, type(None))) for r in rows) for name in shown]
    lines = [" & ".join(latex(_show(name, r)) for name in shown) + r" \\" for r in rows]
    head = " & ".join(map(latex, shown)) + r" \\"
    caption = latex(", ".join(f"{name} {value}" for name, value in shared.items() if value))
    spec = "".join("r" if is_number else "l" for is_number in numeric)
    parts = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering\small", rf"\caption{{{caption}}}"]
    parts += [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([*parts, r"\end{tabular}", r"\end{table}", ""])


def _split(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The columns of a table, and the values of those in which all rows agree; a column without a value is left out."""
    shared = {name: _show(name, rows[0]) for name in columns if name in _SETTINGS and _agree(name, rows)}
    empty = {name for name in ("interval", "ties", "tricks", "noise") if not any(_show(name, r) for r in rows)}
    empty.update(ABOUT)  # a mark behind the model or method, and a line below
    return [name for name in columns if name not in shared and name not in empty], shared


def _print_table(
    rows: Sequence[Row], limit: int, columns: Sequence[str], markdown: bool, notes: Sequence[str] = ()
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [{**r, "tuned": _tuned(r)} for r in rows]
    shown, shared = _split(rows, columns)
    console = Console()
    if markdown or not console.is_terminal:
        console = Console(width=1000, soft_wrap=True)  # a file or pipe has no width: cut nothing
    table = Table(box=box.MARKDOWN) if markdown else Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        numeric = all(isinstance(r.get(name), (int, float, type(None))) for r in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for r in rows[:limit]:
        table.add_row(*(Text(printable(_show(name, r), console.encoding)) for name in shown))
    line = ", ".join(f"{name}={value}" for name, value in shared.items() if value and (name, value) != ("failed", "0"))
    console.print(Text(printable(line, console.encoding)))
    console.print(table)
    if len(rows) > limit:
        console.print(f"{len(rows) - limit:,} more; `--limit {len(rows)}` shows all.")
    for note in notes:
        console.print(Text(printable(note, console.encoding)))


def _tuned(r: Row) -> str | None:
    """What the search took that chose a run's settings."""
    trials, seconds = r.get("tuning_trials"), r.get("tuning_seconds")
    return f"{trials:.0f} trials, {seconds:,.0f} s" if trials and seconds is not None else None


def _agree(name: str, rows: Sequence[Row]) -> bool:
    return all(r.get(name) == rows[0].get(name) for r in rows)


def _show(name: str, r: Row) -> str:
    """One cell: short numbers, the spread beside a mean, nothing for nothing."""
    value: Any = r.get(name)
    if name == "interval":
        return "" if r.get("score_low") is None else f"[{r['score_low']:.1f}, {r['score_high']:.1f}]"
    if value is None and r.get("shared") and name in leaderboard.MEASURED:
        return "shared"
    if value is None or (name in ("tricks", "noise") and value in (NONE, 0)):
        return ""
    if name == "model" and r.get("seen"):
        return f"{value} {MARK}"
    if name == "method" and r.get("test_texts"):
        return f"{value} {TEXTS}"
    if name == "score" and r.get("score_sd") is not None:
        return f"{value:.1f} ± {r['score_sd']:.1f}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and name == "trainable_params":
        return f"{value:,}"
    return str(value)
