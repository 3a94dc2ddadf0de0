"""The mean score over the tasks learned so far, after each task of a sequence: a line a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.errors import UsageError
from peftbench.figures import lines, style
from peftbench.figures.plot import Data, Plot, view_a_panel
from peftbench.records.store import Store
from peftbench.tables.standings import Standings, by_block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Matrix = Sequence[Sequence["float | None"]]


def data(standings: Standings, store: Store) -> Data:
    """`panels` with their `tasks` and `lines`; a line has its `method`, the number of its `runs`, and `scores`: after
    each task the mean over the tasks learned so far, a mean over the runs."""
    panels = []
    for block, cells in by_block(standings.scored()).items():
        tasks: list[str] = []
        found = []
        for cell in cells:
            sequences = [record.sequence for row in cell.runs if (record := store.load(row["run_id"])) is not None]
            means = [so_far(own["matrix"]) for own in sequences if own]
            if means:
                tasks = sequences[0]["tasks"]
                scores = [sum(point) / len(means) for point in zip(*means, strict=True)]
                found.append({"method": cell.label, "runs": len(means), "scores": scores})
        if found:
            title = block.words(leave_out=("task",))
            panels.append({**block.names(), "title": title, "tasks": tasks, "lines": found})
    if not panels:
        raise UsageError("plot sequence: none of these runs is of a sequence of tasks. Use --task sequence.")
    return {"title": "Mean score over the tasks learned so far", "panels": panels}


def so_far(matrix: Matrix) -> list[float]:
    """After each task, the mean over it and those before it."""
    known = [[score for score in row[:count] if score is not None] for count, row in enumerate(matrix)]
    return [sum(row) / len(row) for row in known[1:]]


def draw(data: Data) -> Figure:
    """A grid of panels."""
    return lines.draw_panels(data, _panel)


def _panel(axes: Axes, panel: Data, looks: Data, inches_high: float) -> None:
    ends, places = [], range(len(panel["tasks"]))
    for line in panel["lines"]:
        (drawn,) = axes.plot(places, line["scores"], **style.line(looks[line["method"]]))
        points = zip(panel["tasks"], line["scores"], strict=True)
        style.tip(drawn, line["method"], "; ".join(f"{task}: {score:.1f}" for task, score in points))
        ends.append((float(places[-1]), line["scores"][-1], line["method"], line["method"]))
    axes.set_xticks(places, [style.shortened(task, 2.6 / len(panel["tasks"])) for task in panel["tasks"]])
    axes.set_xlim(-0.2, len(panel["tasks"]) - 0.8)
    axes.set_xlabel("after learning")
    axes.set_ylabel("mean score")
    lines.name_ends(axes, ends, looks, inches_high)


PLOT = Plot(
    "mean score over the tasks learned so far, after each task of a sequence", data, draw, view_a_panel, in_report=False
)
