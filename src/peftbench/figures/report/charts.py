"""Interactive plots: Vega-Lite descriptions of the data that `peftbench plot` draws, made and checked by Altair.

A chart is a list of views to choose from, each with its description (`spec`) and the rows that the page puts into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.figures.plots.style import COLOURS

if TYPE_CHECKING:
    import altair as alt

Data = dict[str, Any]

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = ([1, 0], [6, 2], [1, 2], [7, 2, 1, 2])
YELLOW = "#F0E442"
"""Okabe and Ito's eighth colour: too light for a line, not for a bar."""
BANDS = 6
"""Lines in a panel up to which all intervals are shown as bands."""
LINE = 24
"""Pixels of one name in a list of methods."""


def charts(plots: list[Data]) -> list[Data]:
    """For each plot: `kind`, `title`, `notes` and `views` with `name`, `spec` and `rows` (by name of the data set).

    Raises:
        UsageError: Altair is not installed.
    """
    if not plots:
        return []
    try:
        import altair  # noqa: F401
    except ImportError:
        raise UsageError("The report's plots need Altair: pip install 'peftbench[report]'.") from None
    makers: dict[str, Callable[[Data], list[Data]]] = {
        "shots": _shots, "pareto": _pareto, "ranks": _ranks, "languages": _languages, "cost": _cost,
    }  # fmt: skip
    head = ("kind", "title", "notes")
    return [{**{name: plot[name] for name in head}, "views": makers[plot["kind"]](plot)} for plot in plots]


def run_curves() -> Data:
    """Descriptions for the pages of runs: `loss`, `dev` and `norms`, each over the data set `points`."""
    import altair as alt

    base = alt.Chart(alt.NamedData("points"), width="container", height=180)
    step, tip = alt.X("step:Q", title="step"), ["step:Q", "value:Q"]
    loss = base.mark_line(color=COLOURS[0]).encode(step, alt.Y("value:Q", title="training loss"), tooltip=tip)
    dev = base.mark_line(color=COLOURS[1], point=True).encode(
        step, alt.Y("value:Q", title="score on dev").scale(zero=False), tooltip=tip
    )
    norms = base.mark_line().encode(
        step, alt.Y("value:Q", title="norm").scale(type="log"), tooltip=["name:N", *tip],
        color=alt.Color("name:N", title=None).scale(range=list(COLOURS)).legend(orient="bottom"),
        strokeDash=alt.StrokeDash("name:N", title=None).scale(range=list(DASHES)).legend(orient="bottom"),
    )  # fmt: skip
    return {"loss": loss.to_dict(), "dev": dev.to_dict(), "norms": norms.to_dict()}


class _Looks:
    """Colour, shape and dash of each method: the same in every view, and one legend for all three."""

    def __init__(self, methods: Sequence[str]) -> None:
        import altair as alt

        names = sorted(set(methods))

        legend = alt.Legend(orient="bottom", symbolLimit=0, symbolOpacity=1)

        def of(channel: Any, range_: Sequence[Any]) -> Any:
            scale = alt.Scale(domain=names, range=[range_[i % len(range_)] for i in range(len(names))])
            return channel("method:N", title=None, scale=scale, legend=legend)

        self.colour, self.shape = of(alt.Color, COLOURS), of(alt.Shape, SHAPES)
        self.dash = of(alt.StrokeDash, DASHES)


def _shots(plot: Data) -> list[Data]:
    import altair as alt

    looks = _Looks([line["method"] for panel in plot["panels"] for line in panel["lines"]])
    base = alt.Chart(alt.NamedData("points"), width="container", height=340)
    x = alt.X("shots:N", title="shots", sort=None).axis(labelAngle=0)
    chosen = alt.selection_point(fields=["method"], bind="legend")
    seen = alt.when(chosen)
    few = max(len(panel["lines"]) for panel in plot["panels"]) <= BANDS
    band = base.mark_area().encode(
        x, alt.Y("low:Q", title="score").scale(zero=False), alt.Y2("high:Q"), looks.colour,
        # many bands are one grey: then only those of the methods picked in the legend are shown
        opacity=alt.when(chosen, empty=few).then(alt.value(0.15)).otherwise(alt.value(0.0)),
    )  # fmt: skip
    faded = seen.then(alt.value(1.0)).otherwise(alt.value(0.12))
    score = alt.Y("score:Q", title="score")
    lines = base.mark_line().encode(x, score, looks.colour, looks.dash, opacity=faded)
    points = base.mark_point(filled=True, size=70).encode(
        x, score, looks.colour, looks.shape, opacity=faded, tooltip=["method:N", "shots:N", *_estimates(), "runs:Q"]
    )
    spec = alt.layer(band, lines, points.add_params(chosen)).to_dict()
    return [
        {
            "name": f"{panel['title']} ({panel['metric']})",
            "spec": spec,
            "rows": {"points": [_banded(line["method"], p) for line in panel["lines"] for p in line["points"]]},
        }
        for panel in plot["panels"]
    ]


def _banded(method: str, point: Data) -> Data:
    """A point whose spread is not known has a band of no width."""
    ends = {end: point["score"] if point[end] is None else point[end] for end in ("low", "high")}
    return {"method": method, **point, **ends}


def _estimates() -> list[alt.Tooltip]:
    import altair as alt

    return [alt.Tooltip(f"{name}:Q", format=".2f") for name in ("score", "low", "high")]


def _pareto(plot: Data) -> list[Data]:
    looks = _Looks([p["method"] for p in plot["points"]])
    views = []
    for cost, words in plot["costs"].items():
        front = set(plot["fronts"][cost])
        points = [
            {
                **_banded(p["method"], {k: p[k] for k in ("score", "low", "high")}),
                **dict(zip(("cost", "least", "most"), p[cost], strict=True)),
                "front": "yes" if p["method"] in front else "no",
            }
            for p in plot["points"]
            if p[cost] is not None
        ]
        if points:
            spec = _pareto_spec(looks, [p["cost"] for p in points], words, plot["metric"])
            views.append({"name": f"against {words}", "spec": spec, "rows": {"points": points}})
    return views


def _pareto_spec(looks: _Looks, costs: Sequence[float], words: str, metric: str) -> Data:
    import altair as alt

    base = alt.Chart(alt.NamedData("points"), width="container", height=380)
    x = _cost_axis(costs, words)
    y = alt.Y("score:Q", title=metric).scale(zero=False)
    tip = ["method:N", *_estimates(), alt.Tooltip("cost:Q", format=",.5~g"), "front:N"]
    front = base.transform_filter("datum.front == 'yes'").mark_line(color="#888888").encode(x, y, order="cost:Q")
    up = base.mark_rule().encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), looks.colour)
    across = base.mark_rule().encode(alt.X("least:Q"), y, alt.X2("most:Q"), looks.colour)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(x, y, looks.colour, looks.shape, tooltip=tip)
    return alt.layer(front, up, across, points).to_dict()


def _cost_axis(costs: Sequence[float], words: str) -> alt.X:
    """Logarithmic where costs differ much. A method that trains nothing costs 0, which has a place there too."""
    import altair as alt

    x = alt.X("cost:Q", title=words)
    known = [c for c in costs if c > 0] or [1.0]
    if max(known) < 20 * min(known):
        return x.scale(zero=False).axis(format="~s")
    tens = [10.0**k for k in range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)]
    if min(costs) > 0:
        return x.scale(type="log").axis(format="~s", values=tens)
    return x.scale(type="symlog", constant=min(known)).axis(format="~s", values=[0.0, *tens])


def _ranks(plot: Data) -> list[Data]:
    import altair as alt

    count = len(plot["ranks"])
    lanes = [{"lane": count + 0.5 + 0.35 * i, "first": g[0], "last": g[-1]} for i, g in enumerate(plot["groups"])]
    y = alt.Y("method:N", sort=None, title=None)
    x = alt.X("rank:Q", title="average rank").axis(tickMinStep=1).scale(
        domain=[1, max([count, *(lane["lane"] for lane in lanes)])], nice=False
    )  # fmt: skip
    ranks = alt.Chart(alt.NamedData("ranks"), width="container", height=LINE * count + 20)
    points = ranks.mark_point(filled=True, size=90, color=COLOURS[0], opacity=1).encode(
        x, y, tooltip=["method:N", alt.Tooltip("rank:Q", format=".2f")]
    )
    bars = alt.Chart(alt.NamedData("lanes")).mark_rule(strokeWidth=4, color=COLOURS[1]).encode(
        alt.X("lane:Q"), alt.Y("first:N", sort=None), alt.Y2("last:N")
    )  # fmt: skip
    name = f"over {plot['blocks']} blocks; bars at the right join methods that are not told apart ({plot['test']})"
    rows = {"ranks": plot["ranks"], "lanes": lanes}
    return [{"name": name, "spec": alt.layer(points, bars).to_dict(), "rows": rows}]


def _languages(plot: Data) -> list[Data]:
    views = []
    for panel in plot["panels"]:
        scores = [s for row in panel["scores"] for s in row if s is not None]
        middle = (min(scores, default=0) + max(scores, default=0)) / 2
        cells = [
            {"method": m, "subset": s, "score": score, "dark": "yes" if score < middle else "no"}
            for m, row in zip(panel["methods"], panel["scores"], strict=True)
            for s, score in zip(panel["subsets"], row, strict=True)
            if score is not None
        ]
        name = f"{panel['title']} ({panel['metric']})"
        tilt = -60 if max(map(len, panel["subsets"])) > 4 else 0
        views.append({"name": name, "spec": _heat_spec(len(panel["methods"]), tilt), "rows": {"cells": cells}})
    return views


def _heat_spec(methods: int, tilt: int) -> Data:
    import altair as alt

    base = alt.Chart(alt.NamedData("cells"), width="container", height=LINE * methods).encode(
        alt.X("subset:N", sort=None, title=None).axis(orient="top", labelAngle=tilt),
        alt.Y("method:N", sort=None, title=None),
    )
    boxes = base.mark_rect().encode(
        alt.Color("score:Q", legend=None).scale(scheme="cividis"),
        tooltip=["method:N", "subset:N", alt.Tooltip("score:Q", format=".2f")],
    )
    colour = alt.when("datum.dark == 'yes'").then(alt.value("white")).otherwise(alt.value("black"))
    text = base.mark_text(fontSize=11).encode(alt.Text("score:Q", format=".1f"), color=colour)
    return alt.layer(boxes, text).to_dict()


def _cost(plot: Data) -> list[Data]:
    import altair as alt

    phases, high = plot["phases"], LINE * len(plot["bars"])
    bars = alt.Chart(alt.NamedData("bars"), width="container", height=high).mark_bar(stroke="white", strokeWidth=0.5)
    colour = alt.Color("phase:N", title=None, sort=phases).scale(range=[*COLOURS, YELLOW]).legend(orient="bottom")
    spec = bars.encode(
        alt.X("seconds:Q", title="seconds of a run"), alt.Y("method:N", sort=None, title=None), colour, order="place:Q",
        tooltip=["method:N", "phase:N", alt.Tooltip("seconds:Q", format=".2f"), "runs:Q"],
    )  # fmt: skip
    rows = [
        {"method": bar["method"], "phase": phase, "place": i, "seconds": bar["seconds"][phase], "runs": bar["runs"]}
        for bar in plot["bars"]
        for i, phase in enumerate(phases)
    ]
    return [{"name": "", "spec": spec.to_dict(), "rows": {"bars": rows}}]
