"""The data of each kind of plot as plain dictionaries, ready for JSON. Nothing here draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peftbench.errors import UsageError, did_you_mean
from peftbench.figures.plots import KINDS
from peftbench.figures.standings import Block, Runs, Standing, Standings, by_block, complete, order
from peftbench.records.store import Store

Data = dict[str, Any]

MOST_PANELS = 16
MOST_CURVES = 48
COSTS = {
    "trainable_params": "trainable parameters",
    "train_peak_mib": "peak memory of training (MiB)",
    "train_seconds": "seconds of training",
}


def make(kind: str, standings: Standings, store: Store, all_panels: bool = False) -> Data:
    """The data of one plot: `kind`, `title`, `notes` and what the kind's own function adds.

    Args:
        all_panels: also more panels than fit on one page, for a reader who can choose one.

    Raises:
        UsageError: there is no such kind, or the runs cannot be shown in one plot of it; the message says which filter
            helps.
    """
    makers: dict[str, Callable[[Standings, Store], Data]] = {
        "shots": shots, "pareto": pareto, "ranks": ranks, "languages": languages, "cost": cost, "training": training,
    }  # fmt: skip
    if kind not in makers:
        raise UsageError(f"plot {kind}: no such kind. {did_you_mean(kind, KINDS)}")
    if not any(cell.runs for cell in standings.cells):
        raise UsageError("None of these runs is finished, so there is nothing to draw.")
    made = makers[kind](standings, store)
    if not all_panels and len(made.get("panels", ())) > MOST_PANELS:
        raise _too_many([panel["title"] for panel in made["panels"]])
    return {"kind": kind, **made, "notes": [*made.get("notes", []), *standings.notes]}


def shots(standings: Standings, store: Store) -> Data:
    """A panel a task, subset, protocol and model; a line a method; a point a number of shots."""
    panels: dict[Block, dict[Block, list[Standing]]] = {}
    for block, cells in by_block(_finished(standings)).items():
        panels.setdefault(block._replace(shots=0), {})[block] = cells
    return {
        "title": "Score by number of shots",
        "panels": [
            {
                **_names(panel),
                "title": panel.words(leave_out=("shots",)),
                "shots": [str(block.shots) for block in blocks],
                "lines": _lines(blocks),
            }
            for panel, blocks in panels.items()
        ],
    }


def _finished(standings: Standings) -> list[Standing]:
    return [cell for cell in standings.cells if cell.mean is not None]


def _lines(blocks: dict[Block, list[Standing]]) -> list[Data]:
    lines: dict[str, list[Data]] = {}
    for block, cells in blocks.items():
        for cell in cells:
            lines.setdefault(cell.label, []).append({"shots": str(block.shots), **_estimate(cell)})
    return [{"method": name, "points": lines[name]} for name in sorted(lines)]


def pareto(standings: Standings, store: Store) -> Data:
    """Mean score over the blocks that all methods have, against mean costs; each with its 95 % interval."""
    metric = _one_metric(standings)
    blocks = by_block(_finished(standings))
    chosen, methods, notes = complete(blocks)
    points = []
    for method in methods:
        groups = [next(c.runs for c in blocks[b] if c.label == method) for b in chosen]
        summary = standings.mean(groups, metric)
        point: Data = {"method": method, "score": summary["mean"], "low": summary["low"], "high": summary["high"]}
        points.append(point | {name: _cost(standings, groups, name) for name in COSTS})
    return {
        "title": "Score against cost: " + _scope(chosen),
        "metric": metric,
        "costs": COSTS,
        "points": points,
        "fronts": {name: front(points, name) for name in COSTS},
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


def ranks(standings: Standings, store: Store) -> Data:
    """Average ranks over blocks, with the groups of methods that pairwise tests do not tell apart."""
    from peftbench import statistics

    blocks = by_block(_finished(standings))
    chosen, methods, notes = complete(blocks)
    if len(chosen) < 2 or len(methods) < 2:
        raise UsageError(
            f"plot ranks: needs at least two methods with a score in each of two blocks (task, subset, shots, model); "
            f"here are {len(methods)} and {len(chosen)}. Loosen the filters."
        )
    table = [[next(c.mean or 0.0 for c in blocks[b] if c.label == m) for m in methods] for b in chosen]
    ranking = statistics.rank(methods, table)
    return {
        "title": "Average ranks: " + _scope(chosen),
        "blocks": len(chosen),
        "ranks": [{"method": name, "rank": rank} for name, rank in ranking.ranks.items()],
        "groups": ranking.groups,
        "p": ranking.p,
        "test": "Wilcoxon signed-rank tests of all pairs with Holm's correction, 5 %",
        "notes": notes,
    }


def languages(standings: Standings, store: Store) -> Data:
    """A panel a task, protocol, shots and model; rows are methods, columns subsets."""
    panels: dict[Block, dict[str, list[Standing]]] = {}
    for block, cells in by_block(_finished(standings)).items():
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
        **_names(panel),
        "title": panel.words(),
        "methods": methods,
        "subsets": subsets,
        "scores": [[scores[m].get(s) for s in subsets] for m in methods],
    }


def cost(standings: Standings, store: Store) -> Data:
    """Mean seconds of a run by phase, over all finished runs of a method."""
    runs: dict[str, list[dict[str, float]]] = {}
    for cell in standings.cells:
        runs.setdefault(cell.label, []).extend(r["phases"] for r in cell.runs)
    runs = {label: members for label, members in runs.items() if members}
    phases = list(dict.fromkeys(p for members in runs.values() for phases in members for p in phases))
    bars: list[Data] = [
        {"method": m, "runs": len(ps), "seconds": {p: sum(x.get(p, 0.0) for x in ps) / len(ps) for p in phases}}
        for m, ps in runs.items()
    ]
    bars.sort(key=lambda bar: (sum(bar["seconds"].values()), bar["method"]))
    settings = {(b.model, b.task, b.subset, b.shots) for b in (c.block for c in standings.cells if c.runs)}
    notes = [f"means over {len(settings)} settings of model, task and shots"] if len(settings) > 1 else []
    scope = _scope([cell.block for cell in standings.cells if cell.runs])
    return {"title": f"Cost of a run by phase: {scope}", "phases": phases, "bars": bars, "notes": notes}


def training(standings: Standings, store: Store) -> Data:
    """The curves of every run."""
    chosen = [(cell.label, row["run_id"]) for cell in standings.cells for row in cell.runs]
    if len(chosen) > MOST_CURVES:
        raise UsageError(f"plot training: {len(chosen)} runs, and {MOST_CURVES} are the most that can be told apart. "
                         "Choose with --method, --task, --shots, --seed ...")  # fmt: skip
    runs = []
    for label, run_id in chosen:
        record = store.load(run_id)
        if record is not None and record.curves.get("step"):
            runs.append({"run_id": run_id, "method": label, "seed": record.seed, "data_seed": record.data_seed,
                         **_curves(record.curves)})  # fmt: skip
    if not runs:
        raise UsageError("plot training: none of these runs has a training curve (floors and shots=0 have none).")
    scope = _scope([cell.block for cell in standings.cells if cell.runs])
    return {"title": f"Training: {scope}", "runs": runs}


def _curves(curves: dict[str, list]) -> Data:
    return {name: curves.get(name, []) for name in ("step", "loss", "dev_step", "dev")}


def _estimate(cell: Standing) -> Data:
    return {"score": cell.mean, "low": cell.low, "high": cell.high, "runs": len(cell.runs)}


def _names(block: Block) -> Data:
    return {name: getattr(block, name) for name in ("task", "subset", "protocol", "model", "metric")}


def _scope(blocks: Sequence[Block]) -> str:
    """What all blocks share, in words, and how many there are."""
    if len(set(blocks)) == 1:
        return blocks[0].words()
    shared = []
    for name, plural in (("task", "tasks"), ("subset", "subsets"), ("model", "models"), ("shots", "shot counts")):
        values = {getattr(b, name) for b in blocks}
        value = str(next(iter(values)))
        if len(values) > 1:
            shared.append(f"{len(values)} {plural}")
        elif value:
            shared.append(f"{value} shots" if name == "shots" and value != "full" else value)
    return ", ".join(shared)


def _one_metric(standings: Standings) -> str:
    metrics = sorted({cell.block.metric for cell in standings.cells if cell.runs})
    if len(metrics) > 1:
        raise UsageError(
            f"These runs are measured in {', '.join(metrics)}; a mean needs one. Use --metric {metrics[0]}."
        )
    return metrics[0]


def _too_many(titles: Sequence[str]) -> UsageError:
    return UsageError(
        f"{len(titles)} panels ({'; '.join(titles[:3])} ...) are more than the {MOST_PANELS} that fit. Use --task, "
        "--subset, --model, --protocol or --shots to choose."
    )
