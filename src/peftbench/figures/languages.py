"""A heat map of methods by language (or other subset)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from peftbench.figures import style
from peftbench.figures.plot import Data, Plot, view_a_panel
from peftbench.records.store import Store
from peftbench.tables.standings import Block, Standing, Standings, by_block, order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def data(standings: Standings, store: Store) -> Data:
    """A panel a task, protocol, shots and model; rows are methods, columns subsets."""
    panels: dict[Block, dict[str, list[Standing]]] = {}
    for block, cells in by_block(standings.scored()).items():
        panels.setdefault(block._replace(subset=""), {})[block.subset] = cells
    return {
        "title": "Score by language or subset",
        "panels": [_heat(panel, panels[panel]) for panel in sorted(panels, key=order)],
    }


def _heat(panel: Block, columns: dict[str, list[Standing]]) -> Data:
    scores: dict[str, dict[str, float]] = {}
    for subset, cells in columns.items():
        for cell in cells:
            scores.setdefault(cell.label, {})[subset] = cell.mean or 0.0
    subsets = list(columns)
    methods = sorted(scores, key=lambda m: (-sum(scores[m].values()) / len(scores[m]), m))
    return {
        **panel.names(),
        "title": panel.words(),
        "methods": methods,
        "subsets": subsets,
        "scores": [[scores[m].get(s) for s in subsets] for m in methods],
    }


def draw(data: Data) -> Figure:
    """Cells with their score; dark is low, light is high, in one scale for all panels."""
    panels, size = data["panels"], _Sizes(data["panels"])
    head, foot = style.heading_inches(data["title"], size.total), style.footnote_inches(data["notes"], size.total)
    figure = style.new_figure(size.total, head + foot + sum(size.highs) + len(panels) * (size.above + 0.12))
    scores = [s for p in panels for row in p["scores"] for s in row if s is not None]
    limits = (min(scores), max(max(scores), min(scores) + 1e-9))
    inches_high = figure.get_size_inches()[1]
    y = inches_high - head
    for panel, high in zip(panels, size.highs, strict=True):
        y -= size.above + high
        axes = style.add_axes(figure, size.methods, y, size.cell * len(panel["subsets"]), high)
        _panel(axes, panel, limits, size.tilted, data["looks"])
        title = style.shortened(f"{panel['title']} ({panel['metric']})", size.total - 0.2, style.NORMAL)
        figure.text(0.1 / size.total, (y + high + size.above - 0.2) / inches_high, title)
        y -= 0.12
    bar = style.add_axes(figure, size.methods + size.wide + 0.12, y + 0.12, 0.12, min(size.highs[-1], 2.0))
    figure.colorbar(axes.images[0], cax=bar)
    style.heading(figure, data["title"], data["notes"])
    return figure


class _Sizes:
    """Inches of the parts of the figure."""

    def __init__(self, panels: list[Data]) -> None:
        subsets = style.widest([s for p in panels for s in p["subsets"]])
        self.methods = style.widest([m for p in panels for m in p["methods"]], style.SMALL) + 0.15
        self.cell = max(0.36, min(0.9, subsets + 0.1))
        self.tilted = subsets > self.cell
        self.wide = max(len(p["subsets"]) for p in panels) * self.cell
        self.above = 0.3 + (subsets if self.tilted else 0.12)
        self.highs = [0.18 * len(p["methods"]) for p in panels]
        self.total = max(self.methods + self.wide + 0.75, 3.2)


def _panel(axes: Axes, panel: Data, limits: tuple[float, float], tilted: bool, looks: Data) -> None:
    table: Any = [[math.nan if s is None else s for s in row] for row in panel["scores"]]
    axes.imshow(table, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(len(panel["subsets"])), panel["subsets"], rotation=90 if tilted else 0)
    style.name_rows(axes, panel["methods"], panel["methods"], looks)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    middle = (limits[0] + limits[1]) / 2
    for i, row in enumerate(panel["scores"]):
        for j, score in enumerate(row):
            text, colour = ("–", "black") if score is None else (f"{score:.1f}", "white" if score < middle else "black")
            axes.text(j, i, text, ha="center", va="center", size=style.SMALL, color=colour)


PLOT = Plot("heat map of methods by language (or other subset)", data, draw, view_a_panel)
