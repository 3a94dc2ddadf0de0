"""What figures of lines share: the grid of their panels, and the name at the end of each line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from peftbench.figures import style
from peftbench.figures.labels import spread
from peftbench.figures.plot import Data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_INCHES = 0.125
"""From one label to the next."""
GUTTER = 0.22
"""Inches between the axes and the labels at their right, for the leaders."""

End = tuple[float, float, str, str]
"""x and y of a line's last point, its name, and the method whose look it has."""


def name_ends(axes: Axes, ends: Sequence[End], looks: Data, inches_high: float) -> None:
    """Names at the right of the axes, in the order of the lines' last points, joined to these by thin lines."""
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    inch = (top - bottom) / inches_high
    half = LINE_INCHES / 2 * inch
    placed = spread([y for _, y, _, _ in ends], LINE_INCHES * inch, bottom + half, top - half)
    width_inches = axes.get_position().width * axes.figure.get_size_inches()[0]  # type: ignore[union-attr]
    edge = right + (right - left) * GUTTER / width_inches
    for (x, y, name, method), at in zip(ends, placed, strict=True):
        colour = looks[method]["colour"]
        leader = axes.plot([x, edge], [y, at], color=colour, linewidth=0.4, clip_on=False, zorder=1)[0]
        text = axes.text(
            edge, at, " " + name, color=style.ink(looks[method]), size=style.SMALL, va="center_baseline", clip_on=False
        )
        style.tip(leader, method)
        style.tip(text, method)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def grid(
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


def draw_panels(data: Data, panel: Callable[[Axes, Data, Data, float], None]) -> Figure:
    """A figure of `data["panels"]`, up to three beside each other, each with `lines` of methods.

    Args:
        panel: draws one into axes; gets it, the looks of the methods and the axes' height in inches.
    """
    panels = data["panels"]
    names = sorted({line["method"] for own in panels for line in own["lines"]})
    most = max(len(own["lines"]) for own in panels)
    figure, boxes = grid(data, len(panels), min(len(panels), 3), 2.6, names, most)
    for own, box in zip(panels, boxes, strict=True):
        axes = style.add_axes(figure, *box)
        panel(axes, own, data["looks"], box[3])
        axes.set_title(style.wrapped(own["title"], box[2] + GUTTER), loc="left")
    style.heading(figure, data["title"], data["notes"])
    return figure
