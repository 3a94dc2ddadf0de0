"""What a person reads at the end of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.cache import Cache
from peftbench.records.record import Record
from peftbench.records.store import Store

if TYPE_CHECKING:
    from rich.console import Console

OFFLINE = "wandb/offline-run-*"
OFFLINE_WORDS = "send: wandb sync FOLDER; turn off: tracking.wandb=disabled"
_BAR = 24
"""Characters of the bar that stands for the whole time of a run."""


def print_summary(
    record: Record, out_dir: str | Path = "results", is_new: bool = True, console: Console | None = None
) -> None:
    """Print score, draw, cost, remarks and the places of the files; without colour when not on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=1000, no_color=True)
    good = record.status == "done"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    last = ""
    for label, text in _lines(record, Store(out_dir), is_new):
        style = {"note": "yellow", "warning": "bold yellow", "reason": "red", "time": "cyan"}.get(label, "")
        label, last = ("" if label == last else label), label
        table.add_row(label, Text(printable(text, console.encoding), style=style))
    console.print(Text(printable(_headline(record), console.encoding), style="bold green" if good else "bold red"))
    console.print(table)


def _headline(record: Record) -> str:
    what = f"{record.method} on {record.task}" + (f"/{record.subset}" if record.subset else "")
    if record.model not in ("", "none"):
        what += f" with {record.model}"
    shots = "all rows" if record.shots == "full" else f"{record.shots} shots"
    if record.score is None:
        return f"{what}, {shots}: {record.status}"
    dev = "" if record.dev_score is None else f" (dev {record.dev_score:.1f})"
    return f"{what}, {shots}: {record.metric} {record.score:.1f}{dev}" + (
        "" if record.status == "done" else f", {record.status}"
    )


def _lines(record: Record, store: Store, is_new: bool) -> Iterator[tuple[str, str]]:
    """Label and text of each line below the headline."""
    if not is_new:
        yield "known", f"this run was finished on {record.created}; nothing was trained (rerun=true trains anew)"
    if record.reason:
        yield "reason", record.reason
    others = {name: value for name, value in record.scores.items() if name != record.metric and value is not None}
    if others:
        yield "also", ", ".join(f"{name} {value:.1f}" for name, value in sorted(others.items()))
    invalid = record.predictions.get("invalid")
    if invalid:
        yield "invalid", f"{invalid} of {record.predictions['count']} answers could not be read and count as wrong"
    yield "draw", _draw(record)
    if record.inference:
        yield "answers", _answers(record.inference)
    if record.tuning:
        yield "tuned", _tuning(record.tuning, record.tuned)
    if record.parameters.get("total"):
        yield "trained", _parameters(record.parameters)
    if record.together:
        yield "time", f"shared: one of {record.together.get('size')} runs trained together, whose seconds these are"
    yield from (("time", line) for line in _time(record.seconds))
    if len(record.stages) > 1 or any(stage.get("parts") for stage in record.stages):
        yield from (("stages", _stage(stage)) for stage in record.stages)
    cost = ", ".join(_cost(record))
    if cost:
        yield "cost", cost
    yield from (("warning", warning) for warning in record.diagnosis.get("warnings", ()))
    yield from (("note", note) for note in record.notes)
    yield "files", f"{store.folder(record.run_id)}, record {store.path(record.run_id)}"
    offline = sorted(store.folder(record.run_id).glob(OFFLINE))
    if offline and is_new and _is_first(store):
        yield "W&B", f"logged offline; {OFFLINE_WORDS.replace('FOLDER', str(offline[-1]))}"
    if record.status == "done" and record.score is not None:
        yield "next", ", ".join(_next(record, store))


def _next(record: Record, store: Store) -> Iterator[str]:
    """Commands that go on from here, with the folder where it is not the default."""
    place = "" if str(store.out_dir) == "results" else f" --out-dir {shlex.quote(str(store.out_dir))}"
    yield f"peftbench compare A B{place} (is a difference real?)"
    yield f"peftbench report{place} (one page of all runs)"
    if (store.folder(record.run_id) / "adapter").is_dir():
        yield f"peftbench predict {record.run_id} --file FILE{place}"


def _is_first(store: Store) -> bool:
    """Whether nobody has been told yet that runs in this folder are logged offline."""
    told, folder = Cache("told"), [str(store.out_dir.absolute()), store.out_dir.stat().st_ino]
    known = told.get(["offline", folder])
    told.put(["offline", folder], True)
    return known is None


def _draw(record: Record) -> str:
    rows = record.draw.get("rows") or {}
    unit = {"per_class": "per class", "total": "in total", "all": ""}.get(record.draw.get("unit", ""), "")
    parts = [f"protocol {record.protocol}, {record.shots} {unit}".rstrip(), f"data seed {record.data_seed}"]
    parts.append(f"training seed {record.seed}")
    return ", ".join(parts) + (": " + ", ".join(f"{n:,} {name}" for name, n in rows.items()) if rows else "")


def _tuning(tuning: dict[str, Any], took: str) -> str:
    """What was chosen and on what, for a dev score that has been chosen by is no estimate any more."""
    values = ", ".join(f"{key.removeprefix('method.')}={value}" for key, value in tuning["values"].items())
    text = f"{took}, {tuning['sampler']}: {values}; dev {tuning['dev_score']:.1f}"
    if tuning.get("start_dev_score") is not None:
        text += f", as given {tuning['start_dev_score']:.1f}"
    both = ", which also choose the checkpoint" if tuning.get("dev_selects") else ""
    return f"{text}, on {tuning['dev_rows']} dev rows{both}: no estimate of the test score"


def _answers(facts: dict[str, Any]) -> str:
    """How they were drawn, and what one costs beside a plain one."""
    found = f"by {facts.get('name')}"
    each = facts.get("each") or {}
    own, plain = (each.get(way) or {} for way in ("own", "plain"))
    if own.get("flops") and plain.get("flops"):
        ratio, calls = own["flops"] / plain["flops"], own.get("calls") or 0
        found += f": {ratio:.2g} times the FLOPs of a plain answer, {calls:.3g} sequences read for each"
    told = [f"{name} {value:.3g}" for name, value in (facts.get("facts") or {}).items() if value is not None]
    return found + (f"; {', '.join(told)}" if told else "")


def _parameters(counts: dict[str, int]) -> str:
    trained = counts.get("module", 0) + counts.get("head", 0)
    share = 100 * trained / counts["total"]
    text = f"{trained:,} of {counts['total']:,} parameters ({share:.{2 if share < 99 else 3}g} %)"
    return text + (f", {_bytes(counts['adapter_bytes'])} on disk" if counts.get("adapter_bytes") else "")


def _time(seconds: dict[str, float]) -> Iterator[str]:
    """The total, then a bar a phase, longest first; what rounds to nothing is left out."""
    total = seconds.get("total")
    if not total:
        return
    phases = sorted(((s, name) for name, s in seconds.items() if name != "total"), reverse=True)
    yield f"{total:.1f} s in all"
    for spent, name in phases:
        if spent >= max(0.05, total / 200):
            yield f"{name:<7}{spent:>8.1f} s  {'█' * max(1, round(_BAR * spent / total))}"


def _stage(stage: dict[str, Any]) -> str:
    """One stage in a line: its time by phase, longest first, and what it went over."""
    seconds = {name: spent or 0.0 for name, spent in stage["seconds"].items()}
    phases = sorted(((spent, name) for name, spent in seconds.items() if spent >= 0.05), reverse=True)
    counts = {
        ("part", "parts"): len(stage.get("parts", ())),
        ("step", "steps"): stage["steps"],
        ("teacher", "teachers"): stage.get("teachers", 0),
        ("unlabelled pass", "unlabelled passes"): stage.get("unlabeled_passes", 0),
    }
    facts = [f"{sum(seconds.values()):.1f} s", *(f"{name} {spent:.1f}" for spent, name in phases[:3])]
    facts += [f"{count:,} {name[count != 1]}" for name, count in counts.items() if count]
    peak = stage.get("memory", {}).get("train_peak_mib")
    facts += [] if peak is None else [f"train peak {peak:,.0f} MiB"]
    return f"{stage['name']}: {', '.join(facts)}" + ("" if stage["status"] == "done" else f", {stage['status']}")


def _cost(record: Record) -> Iterator[str]:
    memory, compute = record.memory, record.compute
    grown = "" if "train_peak_reserved_mib" in memory or "eval_peak_reserved_mib" in memory else "+"
    for phase in ("train", "eval"):
        peak = memory.get(f"{phase}_peak_mib")
        if peak is not None:
            yield f"{phase} peak {grown}{peak:,.0f} MiB"
    saved, flops, speed = memory.get("saved_bytes"), compute.get("step_flops"), compute.get("tokens_per_second")
    if saved is not None:
        yield f"{_bytes(saved)} saved for backward"
    if flops is not None:
        yield f"{flops / 1e9:,.1f} GFLOP a step"
    if speed is not None:
        yield f"{speed:,.0f} tokens/s in training"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def printable(text: Any, encoding: str) -> str:
    """`text` as a terminal of this encoding can show it, without control characters."""
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    try:
        shown.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return shown.replace("█", "#").replace("±", "+-").encode("ascii", "replace").decode()
    return shown
