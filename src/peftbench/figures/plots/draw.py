"""Points, bars, cells and ranks, drawn with matplotlib from the data of `data.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.figures.plots import style
from peftbench.figures.plots.data import Data
from peftbench.figures.plots.labels import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXEL = 1 / style.DPI


def pareto(data: Data) -> Figure:
    """A panel a cost. Crosses are 95 % intervals; a line joins the Pareto front, whose names are bold."""
    costs = [name for name in data["costs"] if any(p[name] for p in data["points"])]
    looks = style.looks(p["method"] for p in data["points"])
    many = len(looks)
    wide, high, left = 3.0 + 0.035 * many, 2.6 + 0.04 * many, 0.55
    total = len(costs) * (left + wide) + 0.15
    head, foot = style.heading_inches(data["title"], total), style.footnote_inches(data["notes"], total)
    figure = style.new_figure(total, head + foot + high + 0.55)
    for i, name in enumerate(costs):
        axes = style.add_axes(figure, left + i * (left + wide), foot + 0.42, wide, high)
        points = [p for p in data["points"] if p[name]]
        _pareto_panel(axes, points, name, set(data["fronts"][name]), looks)
        axes.set_xlabel(data["costs"][name])
        axes.set_ylabel(data["metric"])
    style.heading(figure, data["title"], data["notes"])
    return figure


def _pareto_panel(axes: Axes, points: Sequence[Data], cost: str, front: set[str], looks: dict) -> None:
    log = max(p[cost][0] for p in points) > 20 * max(1.0, min(p[cost][0] for p in points))
    if log:
        axes.set_xscale("symlog" if min(p[cost][1] for p in points) <= 0 else "log")
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    for p in points:
        look, (mean, low, high) = looks[p["method"]], p[cost]
        top, bottom = (p["score"] if p[side] is None else p[side] for side in ("high", "low"))
        axes.errorbar(
            mean, p["score"], xerr=[[mean - low], [high - mean]], yerr=[[p["score"] - bottom], [top - p["score"]]],
            color=look["color"], marker=look["marker"], elinewidth=0.5, alpha=0.9, zorder=3,
            markerfacecolor=look["color"] if p["method"] in front else "white",
        )  # fmt: skip
    axes.margins(0.12)
    best = sorted((p for p in points if p["method"] in front), key=lambda p: p[cost][0])
    axes.plot([p[cost][0] for p in best], [p["score"] for p in best], color=style.GREY, linewidth=1, zorder=1)
    axes.autoscale_view()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    pixel = axes.transData.transform
    crosses = []
    for p in points:
        low, high = ((p["score"] if p[side] is None else p[side]) for side in ("low", "high"))
        crosses.append((*pixel((p[cost][0], low)), *pixel((p[cost][0], high))))
        crosses.append((*pixel((p[cost][1], p["score"])), *pixel((p[cost][2], p["score"]))))
    _name_points(axes, [(p[cost][0], p["score"], p["method"]) for p in points], front, looks, crosses)


def _name_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], bold: set[str], looks: dict, crosses: Sequence[tuple]
) -> None:
    """Every point's name at the nearest free place, with a thin line where that is not beside it."""
    at = axes.transData.transform([(x, y) for x, y, _ in points])
    names = [style.shortened(name, 1.6) for _, _, name in points]
    wide = [style.width(n, style.SMALL, p[2] in bold) / PIXEL + 4 for n, p in zip(names, points, strict=True)]
    sizes = [(w, 0.125 / PIXEL) for w in wide]
    area = tuple(axes.bbox.extents)
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    thin = [(left - 1, low - 1, right + 1, high + 1) for left, low, right, high in crosses]
    corners = place([tuple(p) for p in at], sizes, area, marks, thin)  # type: ignore[arg-type]
    back = axes.transData.inverted()
    for name, (x, y, method), corner, (across, high) in zip(names, points, corners, sizes, strict=True):
        left, middle = corner[0] + 2, corner[1] + high / 2
        pixel = axes.transData.transform((x, y))
        near = (min(max(pixel[0], left), left + across - 4), min(max(pixel[1], corner[1]), corner[1] + high))
        if math.dist(pixel, near) > 12:
            axes.plot(*zip((x, y), back.transform(near), strict=True), color=style.LIGHT, linewidth=0.5, zorder=2)
        text_x, text_y = back.transform((left, middle))
        axes.text(
            text_x, text_y, name, size=style.SMALL, va="center", color=looks[method]["color"],
            weight="bold" if method in bold else "normal", zorder=4,
        )  # fmt: skip


def ranks(data: Data) -> Figure:
    """Demsar's diagram: names at both sides, joined to their rank; a bar over those that are not told apart."""
    ranked, groups = data["ranks"], data["groups"]
    count = len(ranked)
    line, bars = 0.16, 0.1 * len(groups) + 0.12
    names = [f"{r['method']}  {r['rank']:.2f}" for r in ranked]
    side, wide = style.widest(names, style.NORMAL) + 0.25, max(3.5, 0.14 * count)
    half = (count + 1) // 2
    notes = [f"{data['blocks']} blocks; rank 1 is best; bars join methods that are not told apart ({data['test']}); "
             f"Friedman p = {data['p']:.2g}", *data["notes"]]  # fmt: skip
    total = wide + 2 * side
    head, foot = style.heading_inches(data["title"], total), style.footnote_inches(notes, total)
    high = 0.35 + bars + half * line
    figure = style.new_figure(total, head + foot + high)
    axes = style.add_axes(figure, side, foot, wide, high)
    axes.set_xlim(1, max(count, 2))
    axes.set_ylim(high, 0)
    axes.axis("off")
    _rank_axis(axes, count, 0.3)
    inch = (max(count, 2) - 1) / wide
    for i, (row, name) in enumerate(zip(ranked, names, strict=True)):
        first = i < half
        y = 0.3 + bars + line * (i if first else count - 1 - i) + line / 2
        edge = 1 - 0.08 * inch if first else max(count, 2) + 0.08 * inch
        axes.plot([row["rank"], row["rank"], edge], [0.3, y, y], color="black", linewidth=0.6, clip_on=False)
        anchor = edge + (-0.04 if first else 0.04) * inch
        axes.text(anchor, y, name, ha="right" if first else "left", va="center", size=style.NORMAL)
    value = {r["method"]: r["rank"] for r in ranked}
    for i, group in enumerate(groups):
        y = 0.3 + 0.1 * (i + 1)
        ends = [value[m] for m in group]
        bar = [min(ends) - 0.03 * inch, max(ends) + 0.03 * inch]
        axes.plot(bar, [y, y], color="black", linewidth=2.5, solid_capstyle="butt")
    style.heading(figure, data["title"], notes)
    return figure


def _rank_axis(axes: Axes, count: int, y: float) -> None:
    step = math.ceil(count / 12)
    axes.plot([1, max(count, 2)], [y, y], color="black", linewidth=0.8)
    for tick in range(1, max(count, 2) + 1):
        axes.plot([tick, tick], [y - 0.05, y], color="black", linewidth=0.6)
        if (tick - 1) % step == 0:
            axes.text(tick, y - 0.07, str(tick), ha="center", va="bottom", size=style.SMALL)


def languages(data: Data) -> Figure:
    """Cells with their score; dark is low, light is high, in one scale for all panels."""
    panels = data["panels"]
    methods = style.widest([m for p in panels for m in p["methods"]], style.SMALL) + 0.15
    names = [s for p in panels for s in p["subsets"]]
    cell_wide = max(0.36, min(0.9, style.widest(names) + 0.1))
    names_inches = max(0.0, style.widest(names) - cell_wide)
    tilted = names_inches > 0
    wide = max(len(p["subsets"]) for p in panels) * cell_wide
    above = 0.3 + (style.widest(names) if tilted else 0.12)
    highs = [0.18 * len(p["methods"]) for p in panels]
    total = max(methods + wide + 0.75, 3.2)
    head, foot = style.heading_inches(data["title"], total), style.footnote_inches(data["notes"], total)
    figure = style.new_figure(total, head + foot + sum(highs) + len(panels) * (above + 0.12))
    scores = [s for p in panels for row in p["scores"] for s in row if s is not None]
    limits = (min(scores), max(max(scores), min(scores) + 1e-9))
    y = figure.get_size_inches()[1] - head
    for panel, high in zip(panels, highs, strict=True):
        y -= above + high
        axes = style.add_axes(figure, methods, y, cell_wide * len(panel["subsets"]), high)
        _heat_panel(axes, panel, limits, tilted)
        figure.text(0.1 / total, (y + high + above - 0.2) / figure.get_size_inches()[1],
                    style.shortened(f"{panel['title']} ({panel['metric']})", total - 0.2, style.NORMAL))  # fmt: skip
        y -= 0.12
    bar = style.add_axes(figure, methods + wide + 0.12, y + 0.12, 0.12, min(highs[-1], 2.0))
    figure.colorbar(axes.images[0], cax=bar)
    style.heading(figure, data["title"], data["notes"])
    return figure


def _heat_panel(axes: Axes, panel: Data, limits: tuple[float, float], tilted: bool) -> None:
    table = [[math.nan if s is None else s for s in row] for row in panel["scores"]]
    axes.imshow(table, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(len(panel["subsets"])), panel["subsets"], rotation=90 if tilted else 0)
    axes.set_yticks(range(len(panel["methods"])), panel["methods"])
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    middle = (limits[0] + limits[1]) / 2
    for i, row in enumerate(panel["scores"]):
        for j, score in enumerate(row):
            text, dark = ("–", False) if score is None else (f"{score:.1f}", score < middle)
            axes.text(j, i, text, ha="center", va="center", size=style.SMALL, color="white" if dark else "black")


def cost(data: Data) -> Figure:
    """A bar a method, a hatched part a phase, shortest first."""
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
    starts = [0.0] * len(bars)
    for i, phase in enumerate(phases):
        spans = [bar["seconds"][phase] for bar in bars]
        axes.barh(
            range(len(bars)), spans, left=starts, height=0.72, label=phase, color=style.COLOURS[i % len(style.COLOURS)],
            hatch=style.HATCHES[i % len(style.HATCHES)], edgecolor="white", linewidth=0.3,
        )  # fmt: skip
        starts = [a + b for a, b in zip(starts, spans, strict=True)]
    for y, end in enumerate(starts):
        axes.text(end, y, f" {end:,.1f} s", va="center", size=style.SMALL)
    axes.set_yticks(range(len(bars)), names)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, max(*starts, 1e-9) * 1.02)
    axes.set_xlabel("seconds")
    axes.grid(False, axis="y")
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.02, 1 - head / figure.get_size_inches()[1]), ncols=columns, frameon=False,
        borderaxespad=0.2, columnspacing=1.2, handlelength=1.6,
    )  # fmt: skip
    style.heading(figure, data["title"], notes)
    return figure


def short_number(value: float) -> str:
    """1,200,000 as 1.2M, for axes."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"
