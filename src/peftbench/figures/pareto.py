"""Score against cost: a panel a cost, crosses are 95 % intervals, and a line joins what nothing beats in both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.figures import style
from peftbench.figures.labels import place
from peftbench.figures.plot import Data, Plot
from peftbench.records.store import Store
from peftbench.tables.standings import Runs, Standings, by_block, complete, one_metric, scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {
    "trainable_params": "trainable parameters",
    "train_peak_mib": "peak memory of training (MiB)",
    "train_seconds": "seconds of training",
}
COUNTED = {
    "trainable_params": "trainable parameters",
    "step_flops": "FLOPs of a training step",
    "saved_bytes": "bytes kept for backward",
    "train_cpu_seconds": "CPU seconds of training",
}
"""What depends least on the machine and on what else it was doing."""
PIXEL = 1 / style.DPI


def data(standings: Standings, store: Store, costs: Mapping[str, str] = COSTS) -> Data:
    """`points`: mean score over the blocks that all methods have, mean costs, each with its 95 % interval."""
    metric = one_metric(standings)
    blocks = by_block(standings.scored())
    chosen, methods, notes = complete(blocks)
    points = []
    for method in methods:
        groups = [next(c.runs for c in blocks[b] if c.label == method) for b in chosen]
        summary = standings.mean(groups, metric)
        point: Data = {"method": method, "score": summary["mean"], "low": summary["low"], "high": summary["high"]}
        points.append(point | {name: _cost(standings, groups, name) for name in costs})
    return {
        "title": "Score against cost: " + scope(chosen),
        "metric": metric,
        "costs": dict(costs),
        "points": points,
        "fronts": {name: front(points, name) for name in costs},
        "notes": notes,
    }


def _cost(standings: Standings, groups: Sequence[Runs], name: str) -> list[float] | None:
    """Mean, low and high end of its interval; None if a run does not know this cost."""
    if any(row[name] is None for runs in groups for row in runs):
        return None
    found = standings.mean(groups, name)
    return [found["mean"], *(found["mean"] if found[end] is None else found[end] for end in ("low", "high"))]


def front(points: Sequence[Data], cost: str) -> list[str]:
    """Methods that no other beats in both: at most the cost and at least the score, one of them strictly."""

    def beaten(p: Data) -> bool:
        return any(
            q[cost][0] <= p[cost][0]
            and q["score"] >= p["score"]
            and (q[cost][0], q["score"]) != (p[cost][0], p["score"])
            for q in points
            if q[cost] is not None
        )

    kept = [p for p in points if p[cost] is not None and not beaten(p)]
    return [p["method"] for p in sorted(kept, key=lambda p: (p[cost][0], p["score"]))]


def views(data: Data) -> list[tuple[str, Data]]:
    """A cost at a time."""
    known = [name for name in data["costs"] if any(p[name] for p in data["points"])]
    return [(f"against {data['costs'][name]}", {**data, "costs": {name: data["costs"][name]}}) for name in known]


def draw(data: Data) -> Figure:
    """A panel a cost; names of the front are bold."""
    costs = [name for name in data["costs"] if any(p[name] for p in data["points"])]
    many = len(data["points"])
    wide, high, left = 3.0 + 0.035 * many, 2.6 + 0.04 * many, 0.55
    total = len(costs) * (left + wide) + 0.15
    head, foot = style.heading_inches(data["title"], total), style.footnote_inches(data["notes"], total)
    figure = style.new_figure(total, head + foot + high + 0.55)
    for i, name in enumerate(costs):
        axes = style.add_axes(figure, left + i * (left + wide), foot + 0.42, wide, high)
        points = [{**p, "cost": p[name]} for p in data["points"] if p[name]]
        _panel(axes, points, set(data["fronts"][name]), data["looks"])
        axes.set_xlabel(data["costs"][name])
        axes.set_ylabel(data["metric"])
    style.heading(figure, data["title"], data["notes"])
    return figure


def _panel(axes: Axes, points: Sequence[Data], front: set[str], looks: Data) -> None:
    _scale(axes, points)
    for p in points:
        _cross(axes, p, looks[p["method"]], p["method"] in front)
    axes.margins(0.12)
    best = sorted((p for p in points if p["method"] in front), key=lambda p: p["cost"][0])
    axes.plot([p["cost"][0] for p in best], [p["score"] for p in best], color=style.GREY, linewidth=1, zorder=1)
    axes.autoscale_view()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    _name_points(axes, points, front, looks)


def _scale(axes: Axes, points: Sequence[Data]) -> None:
    """Logarithmic where costs differ much. A method that trains nothing costs 0, which has a place there too."""
    costs = [p["cost"][0] for p in points]
    if max(costs) > 20 * max(1.0, min(costs)):
        axes.set_xscale("symlog" if min(p["cost"][1] for p in points) <= 0 else "log")
    axes.xaxis.set_major_formatter(lambda value, _: style.short_number(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def _cross(axes: Axes, p: Data, look: Data, filled: bool) -> None:
    mean, low, high = p["cost"]
    top, bottom = (p["score"] if p[side] is None else p[side] for side in ("high", "low"))
    drawn: Any = axes.errorbar(
        mean, p["score"], xerr=[[mean - low], [high - mean]], yerr=[[p["score"] - bottom], [top - p["score"]]],
        color=look["colour"], marker=look["marker"], elinewidth=0.5, alpha=0.9, zorder=3,
        markerfacecolor=look["colour"] if filled else "white",
    )  # fmt: skip
    for arm in drawn[2]:
        arm.set_alpha(0.5)
    for artist in (drawn[0], *drawn[2]):
        style.tip(artist, p["method"], f"score {style.interval(p)}; cost {style.short_number(mean)}")


def _name_points(axes: Axes, points: Sequence[Data], bold: set[str], looks: Data) -> None:
    """Every point's name at the nearest free place, with a thin line where that is not beside it."""
    at = axes.transData.transform([(p["cost"][0], p["score"]) for p in points])
    names = [style.shortened(p["method"], 1.6) for p in points]
    high = 0.125 / PIXEL
    sizes = [
        (style.width(n, style.SMALL, p["method"] in bold) / PIXEL + 4, high) for n, p in zip(names, points, strict=True)
    ]
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    corners = place([tuple(p) for p in at], sizes, tuple(axes.bbox.extents), marks, _arms(axes, points))  # type: ignore[arg-type]
    back = axes.transData.inverted()
    for name, p, pixel, corner, (across, _) in zip(names, points, at, corners, sizes, strict=True):
        left, bottom = corner[0] + 2, corner[1]
        near = (min(max(pixel[0], left), left + across - 4), min(max(pixel[1], bottom), bottom + high))
        look = looks[p["method"]]
        if math.dist(pixel, near) > 12:
            ends = zip((p["cost"][0], p["score"]), back.transform(near), strict=True)
            style.tip(axes.plot(*ends, color=style.LIGHT, linewidth=0.5, zorder=2)[0], p["method"])
        weight = "bold" if p["method"] in bold else "normal"
        x, y = back.transform((left, bottom + high / 2))
        text = axes.text(x, y, name, size=style.SMALL, va="center", color=style.ink(look), weight=weight, zorder=4)
        style.tip(text, p["method"])


def _arms(axes: Axes, points: Sequence[Data]) -> list[tuple[float, float, float, float]]:
    """The lines of the crosses as thin boxes in pixels."""
    pixel, boxes = axes.transData.transform, []
    for p in points:
        low, high = (p["score"] if p[side] is None else p[side] for side in ("low", "high"))
        mean, least, most = p["cost"]
        for ends in ((mean, low), (mean, high)), ((least, p["score"]), (most, p["score"])):
            (x, y), (right, top) = pixel(ends)
            boxes.append((x - 1, y - 1, right + 1, top + 1))
    return boxes


PLOT = Plot(
    "score against trainable parameters, memory and time, with intervals and the Pareto front", data, draw, views
)
