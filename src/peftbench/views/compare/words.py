"""A comparison in plain sentences, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peftbench.statistics import Summary
from peftbench.views.compare.analysis import ALPHA, Comparison
from peftbench.views.summary import printable

if TYPE_CHECKING:
    from rich.console import Console

_MOST_DRAWS_IN_A_COMMAND = 40


def sentences(c: Comparison, level: float) -> list[str]:
    """Is the difference real, what does it rest on, and what would settle it."""
    return [s for s in (_verdict(c, level), _models(c), _outlook(c)) if s]


def _verdict(c: Comparison, level: float) -> str:
    d = c.difference
    where = _where(c)
    if d.low is None or d.high is None or c.p is None:
        return (
            f"Nothing can be said{where}: one run each, and without predictions, leaves the spread unknown "
            f"({c.a} {c.mean_a.mean:.1f}, {c.b} {c.mean_b.mean:.1f} {c.metric})."
        )
    first, last, sign = (c.a, c.b, 1) if d.mean >= 0 else (c.b, c.a, -1)
    low, high = sorted((sign * d.low, sign * d.high))
    size = f"{abs(d.mean):.1f} points of {c.metric}"
    numbers = f"{100 * level:g} % interval {low:.1f} to {high:.1f}, {_p(c.p)}" + (", Holm" if c.n_tests > 1 else "")
    if c.p <= ALPHA:
        return f"{first} is better than {last}{where} by {size} ({numbers}): {_reach(d)}."
    return f"No difference is shown{where}: {first} is ahead of {last} by {size} ({numbers})."


def _reach(d: Summary) -> str:
    """Beyond what a difference holds, by what its interval covers."""
    method = d.method.replace(", not paired", "")
    return {
        "draws and items": "real, for other draws and other test items too",
        "seeds of one draw and items": "real for other training seeds and test items, on this one draw of rows",
        "items only": "real for other test items, but of one trained model each; other draws may differ",
        "draws only": "real for other draws; the test items are taken as given",
        "seeds of one draw only": "real for other training seeds, on this one draw and these test items",
    }[method]


def _models(c: Comparison) -> str:
    """The case that confuses: the models differ beyond doubt, yet the methods are not shown to."""
    if c.items is None or c.p is None or c.p <= ALPHA or c.items.p > ALPHA or c.difference.sd_draws is None:
        return ""
    unit = "draw to draw" if c.difference.n_draws > 1 else "seed to seed"
    return (
        f"These very models do differ on such items ({_p(c.items.p)}), but the difference varies by "
        f"{c.difference.sd_draws:.1f} points from {unit}."
    )


def _outlook(c: Comparison) -> str:
    d, power = c.difference, c.power
    if c.p is not None and c.p <= ALPHA:
        return ""
    if power is None:
        return "How it varies with the draw is not known: run more draws." if d.mean else ""
    unit = "draws" if d.n_draws > 1 else "training seeds"
    seen = f"with the {d.n_replications} there are, one of {power.smallest_seen:.1f} points would be"
    if power.draws is None:
        return (
            f"More {unit} alone would not settle a difference this small on {d.n_items} test items "
            f"(power {100 * power.power:.0f} % at best); {seen}."
        )
    more = max(1, power.draws - d.n_replications)
    return (
        f"If it is real, about {power.draws} {unit} ({more} more) would show it with 80 % power; {seen}."
        if power.draws > d.n_replications
        else f"A difference this large is found with 80 % power; {seen}."
    )


def commands(c: Comparison) -> list[tuple[str, str]]:
    """What to run next, and why: to pair the runs, or to settle the difference."""
    if len(c.runs) < 2 or c.chosen_runs:
        return []
    if c.draws_in_common == 0 and c.seeds[0] and len({_draw_values(c, i) for i in (0, 1)}) > 1:
        return [(f"to pair {c.b} with {c.a}", _command([c.runs[1]], _draw_values(c, 0)))]
    if (c.p is not None and c.p <= ALPHA) or c.difference.mean == 0:
        return []
    wanted = c.power.draws if c.power else 5
    have = c.difference.n_replications
    if wanted is None or wanted <= have or wanted - have > _MOST_DRAWS_IN_A_COMMAND:
        return []
    last = max(seed for i in (0, 1) for seed in _draw_values(c, i))
    further = tuple(range(last + 1, last + 1 + wanted - have))
    return [(f"{wanted - have} more draws", _command(c.runs, further))]


def _draw_values(c: Comparison, i: int) -> tuple[int, ...]:
    position = 0 if _seed_key(c.runs[i].config) == "data_seed" else 1
    return tuple(sorted({seeds[position] for seeds in c.seeds[i]}))


def _seed_key(config: dict[str, Any]) -> str:
    """The key that gives another draw, or, where all rows are taken, another training."""
    protocol = config.get("protocol") or {}
    tied = config.get("data_seed") is None and (protocol.get("tie_seeds") or protocol.get("data_seed") is None)
    return "seed" if tied or config.get("shots") == "full" else "data_seed"


def _command(runs: Sequence[Any], values: Sequence[int]) -> str:
    """One command for all runs if they differ in one choice only (method=dept,lora), else one each."""
    from peftbench.config.command import command, overrides_of

    own = [overrides_of(run.config, always=["method"]) for run in runs]
    seeds = [f"{_seed_key(run.config)}={','.join(map(str, values))}" for run in runs]
    keys = [{o.partition("=")[0]: o.partition("=")[2] for o in overrides} for overrides in own]
    differ = {k for k in set().union(*keys) if len({named.get(k) for named in keys}) > 1} - {"seed", "data_seed"}
    if len(differ) == 1 and len(set(seeds)) == 1 and all(differ <= named.keys() for named in keys):
        key = differ.pop()
        joined = f"{key}={','.join(named[key] for named in keys)}"
        return command([*own[0], joined, seeds[0]], multirun=True)
    lines = [command([*o, s], multirun=len(values) > 1) for o, s in zip(own, seeds, strict=True)]
    return " && ".join(dict.fromkeys(lines))


def print_table(comparisons: Sequence[Comparison], averages: Sequence[Comparison], console: Console) -> None:
    """One line a comparison; what all share is left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [_cells(c) for c in (*comparisons, *averages)]
    shown = [n for n in rows[0] if n in _ALWAYS or (len({r[n] for r in rows}) > 1 and any(r[n] for r in rows))]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        table.add_column(name, justify="left" if name in _WORDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(row[name], console.encoding)) for name in shown))
    console.print(table)


_WORDS = ("A", "B", "model", "task", "subset", "protocol")
_ALWAYS = ("A", "B", "A mean", "B mean", "A - B", "p", "p items", "p draws", "draws", "draws needed")


def _cells(c: Comparison) -> dict[str, str]:
    setting = {name: str(c.setting.get(name, "")) for name in ("model", "task", "subset", "protocol", "shots")}
    if not c.setting and c.over > 1:
        setting["task"] = f"mean of {c.over}"
    needed = "" if c.power is None else "> items" if c.power.draws is None else str(c.power.draws)
    return {
        "A": c.a,
        "B": c.b,
        **setting,
        "metric": c.metric,
        "A mean": _interval(c.mean_a),
        "B mean": _interval(c.mean_b),
        "A - B": _interval(c.difference, signed=True),
        "p": "" if c.p is None else _number(c.p),
        "p items": "" if c.items is None else _number(c.items.p),
        "p draws": "" if c.draws is None or c.draws.n < 2 else f"{_number(c.draws.p)} (>= {c.draws.smallest_p:.2g})",
        "draws": str(c.difference.n_draws),
        "seeds": str(c.difference.n_seeds),
        "draws needed": needed,
    }


def _interval(s: Summary, signed: bool = False) -> str:
    mean = f"{s.mean:+.1f}" if signed else f"{s.mean:.1f}"
    return mean if s.low is None else f"{mean} [{s.low:.1f}, {s.high:.1f}]"


def _where(c: Comparison) -> str:
    task = str(c.setting.get("task", ""))
    if c.over > 1:
        return f" on the average over {c.over} settings"
    if not task:
        return ""
    shots = c.setting.get("shots")
    place = task + (f"/{c.setting['subset']}" if c.setting.get("subset") else "")
    return f" on {place}" + ("" if shots is None else f" with {'all rows' if shots == 'full' else f'{shots} shots'}")


def _p(p: float) -> str:
    return f"p = {_number(p)}" if p >= 0.0001 else "p < 0.0001"


def _number(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def as_dict(c: Comparison, level: float) -> dict[str, Any]:
    """Plain data for JSON; the field names are those of `peftbench.statistics`."""
    return {
        "a": c.a,
        "b": c.b,
        "setting": c.setting,
        "over_settings": c.over,
        "metric": c.metric,
        "mean_a": asdict(c.mean_a),
        "mean_b": asdict(c.mean_b),
        "difference": asdict(c.difference),
        "level": level,
        "p": c.p,
        "n_tests": c.n_tests,
        "real": None if c.p is None else c.p <= ALPHA,
        "items_test": None if c.items is None else asdict(c.items),
        "draws_test": None if c.draws is None else asdict(c.draws),
        "power": None if c.power is None else asdict(c.power),
        "draws_in_common": c.draws_in_common,
        "sentences": sentences(c, level),
        "commands": [command for _, command in commands(c)],
        "notes": c.notes,
    }
