"""Lines: score by shots, and training curves. Each line is named at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.figures.plots import style
from peftbench.figures.plots.data import Data
from peftbench.figures.plots.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_INCHES = 0.125
"""From one label to the next."""
GUTTER = 0.22
"""Inches between the axes and the labels at their right, for the leaders."""

BANDS = 6
"""Lines in a panel up to which intervals are bands."""

End = tuple[float, float, str, dict]
"""x and y of a line's last point, its name, its look."""


def shots(data: Data) -> Figure:
    """A grid of panels. The interval is a band; of many lines, whose bands would be one grey, a bar at each point."""
    panels = data["panels"]
    looks = style.looks(line["method"] for panel in panels for line in panel["lines"])
    columns = min(len(panels), 3)
    figure, boxes = _grid(
        data, len(panels), columns, wide=2.6, labels=list(looks), lines=max(len(p["lines"]) for p in panels)
    )
    for panel, box in zip(panels, boxes, strict=True):
        axes = style.add_axes(figure, *box)
        position = {name: i for i, name in enumerate(panel["shots"])}
        ends: list[End] = []
        for line in panel["lines"]:
            look, points = looks[line["method"]], line["points"]
            count = len(panel["lines"])
            aside = 0.0 if count <= BANDS else 0.3 * (len(ends) / (count - 1) - 0.5)
            x, y = [position[p["shots"]] + aside for p in points], [p["score"] for p in points]
            axes.plot(x, y, **look)
            low = [p["score"] if p["low"] is None else p["low"] for p in points]
            high = [p["score"] if p["high"] is None else p["high"] for p in points]
            if count <= BANDS and len(points) > 1:
                axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
                axes.plot(x, low, x, high, color=look["color"], linestyle=look["linestyle"], linewidth=0.4)
            else:
                axes.vlines(x, low, high, color=look["color"], linewidth=0.6)
            ends.append((x[-1], y[-1], line["method"], look))
        axes.set_xticks(range(len(position)), list(position))
        axes.set_xlim(-0.2, len(position) - 0.8)
        axes.set_xlabel("shots")
        axes.set_ylabel(panel["metric"])
        axes.set_title(style.wrapped(panel["title"], box[2] + GUTTER), loc="left")
        name_ends(axes, ends, box[3])
    style.heading(figure, data["title"], data["notes"])
    return figure


def training(data: Data) -> Figure:
    """Loss, and below it the score on dev where there is one."""
    runs = data["runs"]
    looks = style.looks(run["method"] for run in runs)
    names = _run_names(runs)
    kinds = [("loss", "step", "training loss")]
    if any(run["dev"] for run in runs):
        kinds.append(("dev", "dev_step", "score on dev"))
    figure, boxes = _grid(data, len(kinds), 1, wide=5.0, labels=names, lines=len(runs))
    for (values, steps, words), box in zip(kinds, boxes, strict=True):
        axes = style.add_axes(figure, *box)
        ends: list[End] = []
        for run, name in zip(runs, names, strict=True):
            points = [(s, v) for s, v in zip(run[steps], run[values], strict=True) if v is not None]
            if not points:
                continue
            look = {**looks[run["method"]], "markevery": [len(points) - 1] if values == "loss" else None}
            axes.plot(*zip(*points, strict=True), **look)
            ends.append((*points[-1], name, look))
        axes.set_xlabel("step")
        axes.set_ylabel(words)
        axes.margins(x=0.01)
        name_ends(axes, ends, box[3])
    style.heading(figure, data["title"], data["notes"])
    return figure


def name_ends(axes: Axes, ends: Sequence[End], inches_high: float) -> None:
    """Names at the right of the axes, in the order of the lines' last points, joined to these by thin lines."""
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    inch = (top - bottom) / inches_high
    wanted = [y for _, y, _, _ in ends]
    half = LINE_INCHES / 2 * inch
    placed = spread(wanted, LINE_INCHES * inch, bottom + half, top - half)
    width_inches = axes.get_position().width * axes.figure.get_size_inches()[0]  # type: ignore[union-attr]
    edge = right + (right - left) * GUTTER / width_inches
    for (x, y, name, look), at in zip(ends, placed, strict=True):
        axes.plot([x, edge], [y, at], color=look["color"], linewidth=0.4, clip_on=False, zorder=1)
        axes.text(edge, at, " " + name, color=look["color"], size=style.SMALL, va="center_baseline", clip_on=False)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _grid(
    data: Data, panels: int, columns: int, wide: float, labels: Sequence[str], lines: int
) -> tuple[Figure, list[tuple[float, float, float, float]]]:
    """A figure with room for its panels, and their boxes in inches."""
    names = style.widest(labels) + 0.1
    high = max(2.0, LINE_INCHES * (lines + 1))
    left, above, below = 0.55, 0.35, 0.45
    total = columns * (left + wide + GUTTER + names) + 0.1
    head, foot = style.heading_inches(data["title"], total), style.footnote_inches(data["notes"], total)
    rows = math.ceil(panels / columns)
    figure = style.new_figure(total, head + foot + rows * (above + high + below))
    boxes = []
    for i in range(panels):
        row, column = divmod(i, columns)
        x = left + column * (left + wide + GUTTER + names)
        boxes.append((x, foot + (rows - 1 - row) * (above + high + below) + below, wide, high))
    return figure, boxes


def _run_names(runs: Sequence[Data]) -> list[str]:
    """The method, with the seeds where one method has several runs."""
    methods = [run["method"] for run in runs]
    return [
        run["method"] if methods.count(run["method"]) == 1 else f"{run['method']} d{run['data_seed']} s{run['seed']}"
        for run in runs
    ]
