"""Training curves: loss, below it the score on dev where there is one, and what rounds of reinforcement were like; a
line a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.errors import UsageError
from peftbench.figures import lines, style
from peftbench.figures.plot import Data, Plot
from peftbench.records.store import Store
from peftbench.tables.standings import Standings, scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = 48
CURVES = (
    ("loss", "step", "training loss"),
    ("dev", "dev_step", "score on dev"),
    ("reward", "round_step", "mean reward"),
    ("kl", "round_step", "KL an answer, nats"),
    ("invalid", "round_step", "share of invalid answers"),
)
"""Name in the record, that of its steps, and words; each that some run has gets a panel."""


def data(standings: Standings, store: Store) -> Data:
    """`runs`: method, seeds and curves of every run."""
    chosen = [(cell.label, row["run_id"]) for cell in standings.cells for row in cell.runs]
    if len(chosen) > MOST_CURVES:
        raise UsageError(f"plot training: {len(chosen)} runs, and {MOST_CURVES} are the most that can be told apart. "
                         "Choose with --method, --task, --shots, --seed ...")  # fmt: skip
    runs = []
    for label, run_id in chosen:
        record = store.load(run_id)
        if record is not None and record.curves.get("step"):
            curves = {name: record.curves.get(name, []) for values, steps, _ in CURVES for name in (steps, values)}
            seeds = {"seed": record.seed, "data_seed": record.data_seed}
            runs.append({"run_id": run_id, "method": label, **seeds, **curves})
    if not runs:
        raise UsageError("plot training: none of these runs has a training curve (floors and shots=0 have none).")
    return {"title": f"Training: {scope([cell.block for cell in standings.cells if cell.runs])}", "runs": runs}


def draw(data: Data) -> Figure:
    """A panel for each curve, the loss first."""
    runs, names = data["runs"], _run_names(data["runs"])
    kinds = [curve for curve in CURVES if any(run.get(curve[0]) for run in runs)]
    figure, boxes = lines.grid(data, len(kinds), 1, 5.0, names, len(runs))
    for (values, steps, words), box in zip(kinds, boxes, strict=True):
        axes = style.add_axes(figure, *box)
        ends = []
        for run, name in zip(runs, names, strict=True):
            pairs = zip(run.get(steps, ()), run.get(values, ()), strict=True)
            points = [(s, v) for s, v in pairs if v is not None]
            if points:
                marked = [len(points) - 1] if values == "loss" else None
                look = style.line(data["looks"][run["method"]])
                style.tip(axes.plot(*zip(*points, strict=True), markevery=marked, **look)[0], run["method"], name)
                ends.append((*points[-1], name, run["method"]))
        axes.set_xlabel("step")
        axes.set_ylabel(words)
        axes.margins(x=0.01)
        lines.name_ends(axes, ends, data["looks"], box[3])
    style.heading(figure, data["title"], data["notes"])
    return figure


def _run_names(runs: Sequence[Data]) -> list[str]:
    """The method, with the seeds where one method has several runs."""
    methods = [run["method"] for run in runs]
    return [
        run["method"] if methods.count(run["method"]) == 1 else f"{run['method']} d{run['data_seed']} s{run['seed']}"
        for run in runs
    ]


PLOT = Plot("training loss, score on dev, rewards by step, a line a run", data, draw, in_report=False)
