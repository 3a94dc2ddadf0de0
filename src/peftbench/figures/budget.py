"""Score by tuning budget: a line a method, a point a number of trials; zero trials are the settings as given.

Which runs stand at which budget is a table's to say (`conf/table/board-budget.yaml`): where the settings as given were
the best of the first n trials, their runs are also those of the budget n.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from peftbench.errors import UsageError
from peftbench.figures import lines, style
from peftbench.figures.plot import Data, Plot
from peftbench.records.store import Store
from peftbench.tables import spec
from peftbench.tables.standings import Standings
from peftbench.tables.table import Table, make_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "board-budget"
MEAN = "mean of all"


def data(standings: Standings, store: Store) -> Data:
    """The plot of the packaged table."""
    return of_table(make_table(TABLE, spec.load(TABLE), store))


def of_table(table: Table) -> Data:
    """`panels`, one for each of the table's, with `budgets` (trials) and `lines`; a line has `method` and `points`.

    Its columns are budgets (`8 trials`). Rows that lack one are left out: the mean is over the same rows everywhere.

    Raises:
        UsageError: no row has a score at two budgets.
    """
    panels: list[Data] = []
    notes = ["What was best on dev among the first n trials, scored on draws that the search did not see."]
    for label in table.panels:
        rows, columns = table.grid(label)
        cells = {row: [table.cells[label, row, column] for column in columns] for row in rows}
        whole = {row: own for row, own in cells.items() if all(c.complete for c in own)}
        if gone := [row for row, own in cells.items() if row not in whole and any(c.asked for c in own)]:
            notes.append(f"left out for missing cells: {', '.join(gone)}")
        if not whole or len(columns) < 2:
            continue
        found: list[Data] = [
            {"method": row, "points": [{"score": c.value, "low": c.low, "high": c.high} for c in own]}
            for row, own in whole.items()
        ]
        middle = [sum(line["points"][i]["score"] for line in found) / len(found) for i in range(len(columns))]
        means: Data = {"method": MEAN, "points": [{"score": m, "low": None, "high": None} for m in middle]}
        metric = next(iter(whole.values()))[0].groups[0].metric
        budgets = [int(re.sub(r"\D", "", column)) for column in columns]
        panels.append({"title": label, "metric": metric, "budgets": budgets, "lines": [*found, means]})
    if not panels:
        raise UsageError(f"plot budget: no row of table {table.name} is complete. peftbench table {table.name} --run")
    names = [line["method"] for panel in panels for line in panel["lines"]]
    colours = style.looks({name: name for name in names}, names)
    colours[MEAN] = {"colour": "#000000", "marker": "s", "dash": []}
    title = "Score by tuning budget: " + table.config.description
    return {"title": title, "panels": panels, "colours": colours, "notes": notes}


def draw(data: Data) -> Figure:
    """One panel, or several beside each other; the mean is the thick line."""
    return lines.draw_panels({**data, "looks": data["colours"]}, _panel)


def _panel(axes: Axes, panel: Data, looks: Data, inches_high: float) -> None:
    ends: list[lines.End] = []
    for line in panel["lines"]:
        scores, name = [p["score"] for p in line["points"]], line["method"]
        drawn_as = {**style.line(looks[name]), "linewidth": 2.4 if name == MEAN else 0.8}
        (drawn,) = axes.plot(panel["budgets"], scores, **drawn_as)
        words = (f"{n} trials: {style.interval(p)}" for n, p in zip(panel["budgets"], line["points"], strict=True))
        style.tip(drawn, name, "; ".join(words))
        ends.append((panel["budgets"][-1], scores[-1], name, name))
    axes.set_xticks(panel["budgets"])
    axes.set_xlabel("trials")
    axes.set_ylabel(panel["metric"])
    lines.name_ends(axes, ends, looks, inches_high)


PLOT = Plot("score as a function of the tuning budget (table board-budget)", data, draw, in_report=False)
