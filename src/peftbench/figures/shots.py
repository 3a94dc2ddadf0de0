"""Score by number of shots: a panel a task, subset, protocol and model; a line a method; a point a number of shots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.figures import lines, style
from peftbench.figures.plot import Data, Plot, view_a_panel
from peftbench.records.store import Store
from peftbench.tables.standings import Block, Standing, Standings, by_block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = 6
"""Lines in a panel up to which intervals are bands."""


def data(standings: Standings, store: Store) -> Data:
    """`panels` with their `shots` and `lines`; a line has its `method` and `points`."""
    panels: dict[Block, dict[Block, list[Standing]]] = {}
    for block, cells in by_block(standings.scored()).items():
        panels.setdefault(block._replace(shots=0), {})[block] = cells
    return {
        "title": "Score by number of shots",
        "panels": [
            {
                **panel.names(),
                "title": panel.words(leave_out=("shots",)),
                "shots": [str(block.shots) for block in blocks],
                "lines": _lines(blocks),
            }
            for panel, blocks in panels.items()
        ],
    }


def _lines(blocks: dict[Block, list[Standing]]) -> list[Data]:
    found: dict[str, list[Data]] = {}
    for block, cells in blocks.items():
        for cell in cells:
            point = {"score": cell.mean, "low": cell.low, "high": cell.high, "runs": len(cell.runs)}
            found.setdefault(cell.label, []).append({"shots": str(block.shots), **point})
    return [{"method": name, "points": found[name]} for name in sorted(found)]


def draw(data: Data) -> Figure:
    """A grid of panels. The interval is a band; of many lines, whose bands would be one grey, a bar at each point."""
    return lines.draw_panels(data, _panel)


def _panel(axes: Axes, panel: Data, looks: Data, inches_high: float) -> None:
    position = {name: i for i, name in enumerate(panel["shots"])}
    count, ends = len(panel["lines"]), []
    for i, line in enumerate(panel["lines"]):
        aside = 0.0 if count <= BANDS else 0.3 * (i / (count - 1) - 0.5)
        look, points = looks[line["method"]], line["points"]
        x, y = [position[p["shots"]] + aside for p in points], [p["score"] for p in points]
        (drawn,) = axes.plot(x, y, **style.line(look))
        style.tip(drawn, line["method"], "; ".join(f"{p['shots']} shots: {style.interval(p)}" for p in points))
        _intervals(axes, x, points, line["method"], look, band=count <= BANDS and len(points) > 1)
        ends.append((x[-1], y[-1], line["method"], line["method"]))
    axes.set_xticks(range(len(position)), list(position))
    axes.set_xlim(-0.2, len(position) - 0.8)
    axes.set_xlabel("shots")
    axes.set_ylabel(panel["metric"])
    lines.name_ends(axes, ends, looks, inches_high)


def _intervals(axes: Axes, x: list[float], points: list[Data], method: str, look: Data, band: bool) -> None:
    low = [p["score"] if p["low"] is None else p["low"] for p in points]
    high = [p["score"] if p["high"] is None else p["high"] for p in points]
    if not band:
        style.tip(axes.vlines(x, low, high, color=look["colour"], linewidth=0.5, alpha=0.6), method)
        return
    style.tip(axes.fill_between(x, low, high, color=look["colour"], alpha=0.12, linewidth=0), method)
    for edge in axes.plot(x, low, x, high, **{**style.line(look), "marker": "", "linewidth": 0.4}):
        style.tip(edge, method)


PLOT = Plot("score against the number of shots: a line a method with its interval", data, draw, view_a_panel)
