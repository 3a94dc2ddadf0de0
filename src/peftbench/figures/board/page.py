"""The board in plain sentences: first what cannot be told apart, then what can, what tuning changed, what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from peftbench.figures.board.reading import Gain, Grid, Reading, common
from peftbench.figures.pareto import COUNTED
from peftbench.figures.plot import Data
from peftbench.records.seen import remarks
from peftbench.records.store import Store
from peftbench.tables.cells import TableCell
from peftbench.views.compare.analysis import ALPHA, Comparer, Comparison
from peftbench.views.compare.select import Side
from peftbench.views.compare.words import sentences

REFERENCES = ("lora", "full", "head_only", "frozen_lr")
"""Methods that the best rows are compared with, where the board has them."""
BEST = 3
"""So many rows of the best average rank are compared with each other and with the references."""
LEVEL = 0.95
CHOSEN_BY_TEST = (
    "The rows that are compared here were picked by their ranks on these very test items, so their leads are rather "
    "too large."
)


def page(
    read: Reading,
    store: Store,
    effort: Mapping[str, float],
    fronts: Mapping[str, Data],
    pictures: Mapping[str, str],
    commands: Sequence[str],
    notes: Iterable[str] = (),
) -> str:
    """The page as Markdown.

    Args:
        effort: as `reading.effort` counts it.
        fronts: data of the Pareto plots, by what they average over.
        pictures: file name -> what it shows.
        commands: that made the folder.
        notes: what a reader has to know besides.
    """
    compared = comparisons(read, store)
    open_ones = [c for c in compared if c.p is None or c.p > ALPHA]
    real = [c for c in compared if c not in open_ones]
    parts = [
        f"# {read.table.config.title}",
        _head(read, effort),
        "## What cannot be told apart",
        *_not_apart(read),
        _list(" ".join(sentences(c, LEVEL)) for c in open_ones),
        CHOSEN_BY_TEST if compared else "",
        "## What can",
        _list(" ".join(sentences(c, LEVEL)) for c in real) or "Nothing of what was compared above.",
        "## What tuning changes",
        *_tuning(read),
        "## Costs",
        *_fronts(fronts),
        *(f"![{words}]({name})" for name, words in pictures.items()),
        "## Scores",
        "Mean over the draws, as given -> tuned; letters: rows of a column that share one are not told apart (tuned).",
        _scores(read),
        "## To know",
        _list([*_seen(read), *_left_out(read), *read.table.config.notes, *dict.fromkeys(notes)]),
        "## Made by",
        "```sh\n" + "\n".join(commands) + "\n```",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def comparisons(read: Reading, store: Store) -> list[Comparison]:
    """What `compare` says of the tuned rows of best average rank and of the references: of their averages over the
    columns, or of the one column that there is. Holm's correction is over these pairs."""
    ranked = list(read.ranks["tuned"])
    method = {row: cell.groups[0].runs[0]["method"] for cells in read.tuned.values() for row, cell in cells.items()}
    chosen = [*ranked[:BEST], *(row for row in ranked[BEST:] if method[row] in REFERENCES)]
    sides = [
        Side(row, frozenset(), tuple(r for cells in read.tuned.values() for r in cells[row].groups[0].runs))
        for row in chosen
    ]
    comparer = Comparer(store, None, (), LEVEL)
    return comparer.averages(sides) or comparer.compare(sides)[0]


def _head(read: Reading, effort: Mapping[str, float]) -> str:
    columns = ", ".join(read.tuned)
    return (
        f"{read.table.config.description}. {len(common(read.tuned))} rows have all of {columns}. "
        f"{effort['runs']:,} scored runs, {effort['searches']:,} searches with {effort['trials']:,} trials, "
        f"{effort['cpu_hours']:.1f} CPU hours."
    )


def _not_apart(read: Reading) -> Iterable[str]:
    """Of each column in both tracks, how many pairs are left open, and who shares the first place."""
    lines = []
    for track, columns in read.pairs.items():
        for column, pairs in columns.items():
            best = read.tracks[track][column][pairs.best]
            lines.append(
                f"{column}, {track}: {pairs.pairs - pairs.apart} of {pairs.pairs} pairs of rows are not told apart, "
                f"{pairs.apart} are (5 %, Holm over all pairs of the column). The highest mean is {pairs.best}'s, "
                f"{_interval(best)}; {_tied(pairs.tied)}."
            )
    yield _list(lines)
    blocks = len(read.tuned)
    if blocks > 1:
        least = 2.0 ** (1 - blocks)
        why = f" With {blocks} columns no signed-rank test can give less than p = {least:.3g}, so none does."
        yield f"Average ranks order the rows, they do not separate them.{why if least > ALPHA else ''}"


def _tied(rows: Sequence[str]) -> str:
    if not rows:
        return "every other row is told apart from it"
    return f"{len(rows)} other{'s are' if len(rows) > 1 else ' is'} not told apart from it: {', '.join(rows)}"


def _tuning(read: Reading) -> Iterable[str]:
    """How ranks and scores differ between the tracks."""
    known = [g for g in read.gains if g.p is not None]
    same = len(read.gains) - len(known)
    real = [g for g in known if g.p is not None and g.p <= ALPHA]
    up, down = ([g for g in real if sign * g.summary.mean > 0] for sign in (1, -1))
    yield (
        f"Of {len(read.gains)} cells that were tuned, the settings as given were the best on dev in {same}; in "
        f"{len(known) - len(real)} no difference is shown, {len(up)} are better and {len(down)} worse than as given "
        "(5 %, Holm over all cells)."
    )
    yield _list(_gain(g) for g in sorted(real, key=lambda g: -abs(g.summary.mean)))
    given, tuned = read.ranks["as given"], read.ranks["tuned"]
    both = [row for row in tuned if row in given]
    if len(both) > 2:
        yield f"Kendall's tau between the two rankings of {len(both)} rows is {_tau(given, tuned, both):.2f}."
    means = {g.row: g for g in read.means}
    head = ["", "rank as given", "rank tuned", "places gained", "mean gain", "p (Holm)"]
    order = {track: {row: i for i, row in enumerate(ranks)} for track, ranks in read.ranks.items()}
    lines = [
        [
            row,
            f"{given[row]:.2f}",
            f"{tuned[row]:.2f}",
            f"{order['as given'][row] - order['tuned'][row]:+d}",
            *(_mean_gain(means[row]) if row in means else ["", ""]),
        ]
        for row in both
    ]
    yield _table(head, lines) if lines else ""


def _tau(given: Mapping[str, float], tuned: Mapping[str, float], rows: Sequence[str]) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau([given[row] for row in rows], [tuned[row] for row in rows]).statistic)


def _gain(gain: Gain) -> str:
    s = gain.summary
    return f"{gain.row}, {gain.column}: {s.mean:+.1f} [{s.low:.1f}, {s.high:.1f}], p = {gain.p:.2g}"


def _mean_gain(gain: Gain) -> list[str]:
    s = gain.summary
    ends = "" if s.low is None else f" [{s.low:.1f}, {s.high:.1f}]"
    return [f"{s.mean:+.1f}{ends}", "" if gain.p is None else f"{gain.p:.2g}"]


def _fronts(fronts: Mapping[str, Data]) -> Iterable[str]:
    """Rows that no other beats in both score and cost."""
    for over, data in fronts.items():
        yield f"Rows that nothing beats in both score and cost (means over {over}, tuned; the picture has intervals):"
        yield _list(f"{COUNTED[cost]}: {', '.join(rows)}" for cost, rows in data["fronts"].items() if rows)


def _scores(read: Reading) -> str:
    tuned = read.tuned
    rows = dict.fromkeys([*read.ranks["tuned"], *(row for cells in tuned.values() for row in cells)])
    head = ["", "trained", *tuned, "rank"]
    lines = []
    for row in rows:
        runs = next(cells[row] for cells in tuned.values() if row in cells).groups[0].runs
        trained = runs[0].get("trainable_params")
        rank = read.ranks["tuned"].get(row)
        scores = [_score(read, column, row) for column in tuned]
        lines.append([row, "" if trained is None else f"{trained:,}", *scores, "" if rank is None else f"{rank:.1f}"])
    return _table(head, lines)


def _score(read: Reading, column: str, row: str) -> str:
    cell, given = read.tuned[column].get(row), read.given.get(column, {}).get(row)
    if cell is None:
        return "-"
    pairs = read.pairs["tuned"].get(column)
    before = "-" if given is None else f"{given.value:.1f}"
    return f"{before} -> {_interval(cell)} {pairs.letters.get(row, '') if pairs else ''}".strip()


def _interval(cell: TableCell) -> str:
    ends = "" if cell.low is None else f" [{cell.low:.1f}, {cell.high:.1f}]"
    return f"{cell.value:.1f}{ends}"


def _seen(read: Reading) -> list[str]:
    """What a backbone has seen of a task before."""
    return list(dict.fromkeys(remarks(r for grid in read.tracks.values() for r in _runs(grid))))


def _runs(grid: Grid) -> Iterable[dict]:
    return (run for cells in grid.values() for cell in cells.values() for run in cell.groups[0].runs)


def _left_out(read: Reading) -> list[str]:
    """Rows of the table without any cell, and why; rows that are not finished in all columns."""
    cells = read.table.cells.values()
    impossible = {c.spec.row: c.problem for c in cells if not c.asked and not c.spec.metric.startswith("tuning_")}
    unfinished = [
        r for r in dict.fromkeys(c.spec.row for c in cells) if r not in impossible and r not in common(read.tuned)
    ]
    words = [f"{row} is left out: {why}." for row, why in impossible.items()]
    return words + ([f"Not in all columns of the tuned track: {', '.join(unfinished)}."] if unfinished else [])


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ruler, *lines])
