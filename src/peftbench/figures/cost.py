"""Seconds of a run by phase, a bar a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.figures import style
from peftbench.figures.plot import Data, Plot
from peftbench.records.store import Store
from peftbench.tables.standings import Standings, scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT_OUT = "import"
"""The phase that only the first run of a process has: a method that a sweep begins with would pay for all others."""


def data(standings: Standings, store: Store) -> Data:
    """`bars`: mean seconds of a run by phase, over all finished runs of a method; imports are left out."""
    runs: dict[str, list[dict[str, float]]] = {}
    for cell in standings.cells:
        runs.setdefault(cell.label, []).extend(r["phases"] for r in cell.runs if r["phases"])
    runs = {label: members for label, members in runs.items() if members}
    spent = {p: None for members in runs.values() for phases in members for p, s in phases.items() if s}
    phases = [p for p in spent if p != LEFT_OUT]
    bars: list[Data] = [
        {"method": m, "runs": len(ps), "seconds": {p: sum(x.get(p, 0.0) for x in ps) / len(ps) for p in phases}}
        for m, ps in runs.items()
    ]
    bars.sort(key=lambda bar: (sum(bar["seconds"].values()), bar["method"]))
    blocks = [cell.block for cell in standings.cells if cell.runs]
    settings = {(b.model, b.task, b.subset, b.shots) for b in blocks}
    notes = [f"means over {len(settings)} settings of model, task and shots"] if len(settings) > 1 else []
    if LEFT_OUT in spent:
        notes.append("without the seconds of imports, which only the first run of a process has")
    return {"title": f"Cost of a run by phase: {scope(blocks)}", "phases": phases, "bars": bars, "notes": notes}


def draw(data: Data) -> Figure:
    """A hatched part of a bar a phase, the shortest bar first."""
    bars, phases = data["bars"], data["phases"]
    names = [f"{bar['method']} ({bar['runs']})" for bar in bars]
    left, wide, high = style.widest(names) + 0.2, 4.2, max(0.6, 0.2 * len(bars))
    total = left + wide + 0.7
    notes = ["in brackets: runs behind the mean", *data["notes"]]
    head, foot = style.heading_inches(data["title"], total), style.footnote_inches(notes, total)
    columns = min(len(phases), max(1, int(total / (0.4 + style.widest(phases)))))
    legend = 0.18 * math.ceil(len(phases) / columns) + 0.1
    figure = style.new_figure(total, head + legend + high + 0.5 + foot)
    axes = style.add_axes(figure, left, foot + 0.42, wide, high)
    _bars(axes, bars, phases)
    style.name_rows(axes, names, [bar["method"] for bar in bars], data["looks"])
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.02, 1 - head / figure.get_size_inches()[1]), ncols=columns, frameon=False,
        borderaxespad=0.2, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip
    style.heading(figure, data["title"], notes)
    return figure


def _bars(axes: Axes, bars: Sequence[Data], phases: Sequence[str]) -> None:
    starts = [0.0] * len(bars)
    for i, phase in enumerate(phases):
        spans = [bar["seconds"][phase] for bar in bars]
        parts = axes.barh(
            range(len(bars)), spans, left=starts, height=0.72, label=phase, color=style.FILLS[i % len(style.FILLS)],
            hatch=style.HATCHES[i % len(style.HATCHES)], edgecolor="white", linewidth=0.3,
        )  # fmt: skip
        for bar, part, span in zip(bars, parts, spans, strict=True):
            style.tip(part, bar["method"], f"{bar['method']}: {phase} {span:,.2f} s")
        starts = [a + b for a, b in zip(starts, spans, strict=True)]
    for y, end in enumerate(starts):
        axes.text(end, y, f" {end:,.1f} s", va="center", size=style.SMALL)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, max(*starts, 1e-9) * 1.02)
    axes.set_xlabel("seconds")
    axes.grid(False, axis="y")


PLOT = Plot("seconds of a run by phase, a bar a method", data, draw)
