"""`peftbench status [SWEEP]`: the sweeps of a folder and how the runs of one of them stand."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError, did_you_mean
from peftbench.measure.clock import duration
from peftbench.options import OptionParser
from peftbench.records.find import existing_store
from peftbench.records.states import STATES, RunState, age_seconds, run_states
from peftbench.records.store import Store
from peftbench.sweeps.sweep import Sweep, cause, detail_file
from peftbench.views.display import new_console, new_table, say
from peftbench.views.summary import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

LISTED = 10
"""Sweeps in the list, runs at work, causes of failure."""
WATCH_SECONDS = 2.0


@dataclass(frozen=True)
class SweepStatus:
    """A sweep and how each of its distinct runs stands now."""

    sweep: Sweep
    runs: list[RunState]

    @property
    def mistakes(self) -> Counter[str]:
        """What is wrong with jobs that cannot be runs, and how many of them."""
        return Counter(job.error for job in self.sweep.jobs if job.run_id is None)

    @property
    def counts(self) -> dict[str, int]:
        """Runs by state, then jobs that are no runs of their own; what there is none of is left out."""
        found = Counter(run.state for run in self.runs)
        found["mistakes"] = sum(self.mistakes.values())
        found["duplicates"] = sum(job.same_as is not None for job in self.sweep.jobs)
        return {name: found[name] for name in (*STATES, "mistakes", "duplicates") if found[name]}

    @property
    def over(self) -> bool:
        """Nobody is at work and nothing waits to be begun."""
        return not any(run.state in ("running", "pending") for run in self.runs)


def status_command(argv: Sequence[str]) -> int:
    """`peftbench status`; returns the exit code."""
    parser = OptionParser(
        "status", "The sweeps in out_dir, and how the runs of one of them stand (default: the newest)."
    )
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="id of a sweep, or its beginning")
    parser.add_argument("--watch", action="store_true", help=f"look again every {WATCH_SECONDS:.0f} s until it is over")
    options = parser.parse(argv)
    store = existing_store(options.out_dir)
    sweeps = Sweep.all(store.out_dir)
    if not sweeps and options.sweep is None:
        if options.json:
            print(json.dumps({"sweeps": [], "sweep": None}))
        else:
            say(f"No sweep in `{options.out_dir}` yet. `peftbench ls runs` lists single runs.")
        return 0
    chosen = find(sweeps, options.sweep)
    if options.watch and not options.json:
        _watch(store, chosen)
    elif options.json:
        print(json.dumps(as_json(sweeps, *look(store, chosen)), indent=1))
    else:
        _show(store, sweeps, chosen)
    return 0


def find(sweeps: Sequence[Sweep], wanted: str | None) -> Sweep:
    """The newest sweep, or the one whose id begins with `wanted`.

    Raises:
        UsageError: there is none, or more than one.
    """
    if wanted is None:
        return sweeps[-1]
    matches = [sweep for sweep in sweeps if sweep.sweep_id.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"status {wanted}: {len(matches)} sweeps begin so, {matches[0].sweep_id} and others.")
    if not sweeps:
        raise UsageError(f"status {wanted}: there are no sweeps in this folder; `--out-dir FOLDER` is another.")
    raise UsageError(f"status {wanted}: no such sweep. {did_you_mean(wanted, [s.sweep_id for s in sweeps], limit=10)}")


def look(store: Store, *sweeps: Sweep) -> list[SweepStatus]:
    """How sweeps stand. A run that failed before a sweep began is still to be done by it."""
    run_ids = {sweep.folder: {job.run_id: None for job in sweep.jobs if job.run_id is not None} for sweep in sweeps}
    states = run_states(store, chain.from_iterable(run_ids.values()))  # once for all: it reads the whole cache of rows
    return [SweepStatus(s, [_in_sweep(states[run_id], s.created) for run_id in run_ids[s.folder]]) for s in sweeps]


def _in_sweep(run: RunState, begun: str) -> RunState:
    if run.state in ("failed", "diverged", "interrupted") and run.row is not None and run.row["created"] < begun:
        return RunState(run.run_id, "pending", run.row)
    return run


def as_json(sweeps: Sequence[Sweep], status: SweepStatus) -> dict[str, Any]:
    """All that `status` shows, for programs."""
    sweep = status.sweep
    about = {name: getattr(sweep, name) for name in ("sweep_id", "created", "command", "launcher", "host", "pid")}
    runs = [
        {
            "run_id": run.run_id,
            "state": run.state,
            "reason": run.reason,
            "owner": asdict(run.holder) if run.holder else None,
            "progress": run.progress,
            "created": run.row["created"] if run.row else None,
            "score": run.row["score"] if run.row else None,
        }
        for run in status.runs
    ]
    errors = [{"cause": text, "runs": [r.run_id for r in group]} for text, group in failures(status)]
    mistakes = [{"cause": text, "jobs": count} for text, count in status.mistakes.items()]
    return {
        "sweeps": [s.sweep_id for s in sweeps],
        "sweep": {**about, "counts": status.counts, "runs": runs, "errors": errors, "mistakes": mistakes},
    }


def failures(status: SweepStatus) -> list[tuple[str, list[RunState]]]:
    """The runs that ended badly, by cause, the most frequent first."""
    groups: dict[str, list[RunState]] = {}
    for run in status.runs:
        if run.state in ("failed", "diverged", "interrupted"):
            groups.setdefault(f"{run.state}: {cause(run.reason)}", []).append(run)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _show(store: Store, sweeps: Sequence[Sweep], chosen: Sweep) -> None:
    console = new_console()
    if len(sweeps) > 1:
        console.print(_list(store, sweeps, console.encoding))
    (status,) = look(store, chosen)
    console.print(_one(status, console.encoding))


def _watch(store: Store, chosen: Sweep) -> None:
    """On a terminal a block that renews itself, elsewhere a line at each change; until the sweep is over or Ctrl-C."""
    from rich.live import Live

    console = new_console()
    with (
        Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live,
        suppress(KeyboardInterrupt),
    ):
        shown = ""
        while True:
            (status,) = look(store, chosen)
            line = " · ".join(f"{name} {count:,}" for name, count in status.counts.items())
            if live is not None:
                live.update(_one(status, console.encoding), refresh=True)
            elif line != shown:
                print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
            if status.over:
                return
            shown = line
            time.sleep(WATCH_SECONDS)


def _list(store: Store, sweeps: Sequence[Sweep], encoding: str) -> Table:
    """The newest sweeps, a line each."""
    rows = []
    for status in look(store, *sweeps[-LISTED:]):
        counts = ", ".join(f"{count:,} {name}" for name, count in status.counts.items())
        rows.append([status.sweep.sweep_id, duration(age_seconds(status.sweep.created)), status.sweep.launcher, counts])
    table = new_table(["sweep", ">age", "launcher", "runs"], rows, encoding)
    if len(sweeps) > LISTED:
        table.caption = f"{len(sweeps) - LISTED:,} older ones"
    return table


def _one(status: SweepStatus, encoding: str) -> Group:
    """Everything about one sweep."""
    from rich.console import Group
    from rich.text import Text

    sweep = status.sweep
    head = [
        f"sweep {sweep.sweep_id}, {duration(age_seconds(sweep.created))} ago on {sweep.host} (process {sweep.pid}), "
        f"launcher {sweep.launcher}",
        shlex.join([Path(sweep.command[0]).name, *sweep.command[1:]]),
        " · ".join(f"{name} {count:,}" for name, count in status.counts.items()) or "no runs",
    ]
    parts: list[Any] = [Text(printable(line, encoding)) for line in head]
    overrides = {job.run_id: str(job) for job in reversed(sweep.jobs) if job.run_id}
    for name in ("running", "unfinished"):
        parts += _at_work(name, [run for run in status.runs if run.state == name], overrides, encoding)
    for text, runs in failures(status)[:LISTED]:
        example = runs[0]
        details = detail_file(example.reason)
        where = f"; details: {details}" if details else ""
        parts.append(Text(printable(f"{len(runs):,} x {text}", encoding), style="red"))
        parts.append(Text(printable(f"    for example {example.run_id}: {overrides[example.run_id]}{where}", encoding)))
    for text, count in status.mistakes.most_common(LISTED):
        parts.append(Text(printable(f"{count:,} x mistake: {text}", encoding), style="red"))
    return Group(*parts)


def _at_work(name: str, runs: Sequence[RunState], overrides: dict[str, str], encoding: str) -> list[Any]:
    """A table of runs that somebody works on, or died over."""
    from rich.text import Text

    if not runs:
        return []
    rows = [
        [
            run.run_id,
            overrides[run.run_id],
            run.step(),
            str(run.holder).partition(" since ")[0] if run.holder else "",
            duration(age_seconds(run.holder.since)) if run.holder else "",
            duration(run.holder.beat_age) if run.holder else "",
        ]
        for run in runs[:LISTED]
    ]
    more = f" ({len(runs) - LISTED:,} more)" if len(runs) > LISTED else ""
    return [
        Text(f"{name}{more}:"),
        new_table([name, "what", "step", "owner", ">for", ">last sign of life"], rows, encoding),
    ]
