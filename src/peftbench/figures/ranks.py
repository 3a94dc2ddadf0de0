"""Average ranks over blocks, and who is not told apart: Demsar's critical-difference diagram."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peftbench.errors import UsageError
from peftbench.figures import style
from peftbench.figures.plot import Data, Plot
from peftbench.records.store import Store
from peftbench.tables.standings import Standings, by_block, complete, scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, BAR, TOP = 0.16, 0.1, 0.3
"""Inches: between two names, between two bars, from the top to the axis."""


def data(standings: Standings, store: Store) -> Data:
    """`ranks` over blocks, with the `groups` of methods that pairwise tests do not tell apart."""
    from peftbench import statistics

    blocks = by_block(standings.scored())
    chosen, methods, notes = complete(blocks)
    if len(chosen) < 2 or len(methods) < 2:
        raise UsageError(
            f"plot ranks: needs at least two methods with a score in each of two blocks (task, subset, shots, model); "
            f"here are {len(methods)} and {len(chosen)}. Loosen the filters."
        )
    table = [[next(c.mean or 0.0 for c in blocks[b] if c.label == m) for m in methods] for b in chosen]
    ranking = statistics.rank(methods, table)
    return {
        "title": "Average ranks: " + scope(chosen),
        "blocks": len(chosen),
        "ranks": [{"method": name, "rank": rank} for name, rank in ranking.ranks.items()],
        "groups": ranking.groups,
        "p": ranking.p,
        "test": "Wilcoxon signed-rank tests of all pairs with Holm's correction, 5 %",
        "notes": notes,
    }


def draw(data: Data) -> Figure:
    """Names at both sides, joined to their rank; a bar over those that are not told apart."""
    ranked, count = data["ranks"], len(data["ranks"])
    side = style.widest([_label(r) for r in ranked], style.NORMAL) + 0.25
    wide, bars = max(3.5, 0.14 * count), BAR * len(data["groups"]) + 0.12
    notes = [f"{data['blocks']} blocks; rank 1 is best; bars join methods that are not told apart ({data['test']}); "
             f"Friedman p = {data['p']:.2g}", *data["notes"]]  # fmt: skip
    total = wide + 2 * side
    head, foot = style.heading_inches(data["title"], total), style.footnote_inches(notes, total)
    high = 0.35 + bars + (count + 1) // 2 * LINE
    figure = style.new_figure(total, head + foot + high)
    axes = style.add_axes(figure, side, foot, wide, high)
    axes.set_xlim(1, max(count, 2))
    axes.set_ylim(high, 0)
    axes.axis("off")
    _axis(axes, count)
    inch = (max(count, 2) - 1) / wide
    _names(axes, data, bars, inch)
    _bars(axes, data, inch)
    style.heading(figure, data["title"], notes)
    return figure


def _label(row: Data) -> str:
    return f"{row['method']}  {row['rank']:.2f}"


def _axis(axes: Axes, count: int) -> None:
    step = math.ceil(count / 12)
    axes.plot([1, max(count, 2)], [TOP, TOP], color="black", linewidth=0.8)
    for tick in range(1, max(count, 2) + 1):
        axes.plot([tick, tick], [TOP - 0.05, TOP], color="black", linewidth=0.6)
        if (tick - 1) % step == 0:
            axes.text(tick, TOP - 0.07, str(tick), ha="center", va="bottom", size=style.SMALL)


def _names(axes: Axes, data: Data, bars: float, inch: float) -> None:
    ranked, count = data["ranks"], len(data["ranks"])
    half = (count + 1) // 2
    for i, row in enumerate(ranked):
        first = i < half
        y = TOP + bars + LINE * (i if first else count - 1 - i) + LINE / 2
        edge = 1 - 0.08 * inch if first else max(count, 2) + 0.08 * inch
        look = data["looks"][row["method"]]
        line = axes.plot(
            [row["rank"], row["rank"], edge], [TOP, y, y], color=look["colour"], linewidth=0.6, clip_on=False
        )
        anchor, side = edge + (-0.04 if first else 0.04) * inch, "right" if first else "left"
        text = axes.text(anchor, y, _label(row), ha=side, va="center", size=style.NORMAL, color=style.ink(look))
        for artist in (*line, text):
            style.tip(artist, row["method"])


def _bars(axes: Axes, data: Data, inch: float) -> None:
    value = {r["method"]: r["rank"] for r in data["ranks"]}
    for i, group in enumerate(data["groups"]):
        y = TOP + BAR * (i + 1)
        ends = [value[m] for m in group]
        bar = [min(ends) - 0.03 * inch, max(ends) + 0.03 * inch]
        axes.plot(bar, [y, y], color="black", linewidth=2.5, solid_capstyle="butt")


PLOT = Plot("critical-difference diagram: average ranks over tasks, and who is not told apart", data, draw)
