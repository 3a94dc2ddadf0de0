"""What a person sees while array jobs run elsewhere: runs by state, from the queue, the records and the claims."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.measure.clock import duration
from peftbench.records.record import Record
from peftbench.records.states import read_progress
from peftbench.records.store import Store
from peftbench.sweeps.queues import Queue, Task, TaskState
from peftbench.sweeps.run_job import in_one_line
from peftbench.views.display import new_console
from peftbench.views.summary import printable

STATES = ("pending", "running", "done", "diverged", "failed", "interrupted", "unfinished")
FINAL = ("done", "diverged", "failed")
SHOWN = 3
"""Notes in the line of a state."""
LOOKS_AFTER_END = 2
"""A task has left the queue, and its record may need a moment to appear on a shared file system."""


@dataclass
class WatchedRun:
    """A run that a task of some array has to do, or that another process has in hand (no task then)."""

    run_id: str
    task: Task | None
    earlier: str | None
    """`created` of the record it had before; that one says nothing about this job."""
    sweep: Path | None = None
    """Folder of the sweep that submitted it."""
    label: str = ""
    """What tells it from the other runs of the sweep."""
    job_id: str = ""
    """Of its task, as `scancel` takes it, once the queue has told."""
    waits: bool = False
    """Whether its whole task waits in the queue."""
    state: str = "pending"
    note: str = ""
    """Why it waits, what it came to, or what the queue said when its job ended without a record."""
    looks: int = field(default=0, repr=False)
    """Looks in a row at which nothing was left to wait for."""

    def settled_by(self, row: Mapping[str, Any] | None) -> bool:
        """Whether its task has already filed this result of it: a task that still runs does not try a run twice."""
        return row is not None and row["created"] != self.earlier and row["status"] in FINAL

    @property
    def why(self) -> str:
        """What became of it, if the records cannot tell."""
        if self.state not in ("interrupted", "unfinished"):
            return ""
        return self.note + (f" (log: {self.log})" if self.log else "")

    @property
    def log(self) -> Path | None:
        """What its process or else its job printed."""
        if self.sweep is None or self.task is None:
            return None
        array, index = self.task[0].rpartition("-")[2], self.task[1]
        paths = [self.sweep / "logs" / f"{array}-{index}" / "worker-0.log"]
        paths += [self.sweep / "logs" / f"{self.job_id}_0_log.out"] if self.job_id else []
        return next((path for path in paths if path.exists() and path.stat().st_size), None)


def look(run: WatchedRun, task: TaskState | None, record: Record | None, held: bool) -> tuple[str, str]:
    """State and note of one run.

    Args:
        task: its task in the queue; None once the queue has forgotten it.
        record: what the store holds for the run now.
        held: whether a living process works on the run.
    """
    fresh = record if record is not None and record.created != run.earlier else None
    if fresh is not None and fresh.status in FINAL:
        return fresh.status, in_one_line(fresh)
    if task is not None and task.state == "pending":
        return "pending", task.reason
    if held:
        return "running", ""
    if task is not None and task.state == "running":
        return "pending", "its job is running"
    if run.task is None:
        reason = "the process that had it let it go"
    else:
        reason = f"job {run.job_id} ended: {task.reason}" if task else f"job {run.job_id} has left the queue".strip()
    return "unfinished" if fresh is None else fresh.status, reason


class Watch:
    """Follows runs until none of their tasks waits or runs any more."""

    def __init__(self, runs: Sequence[WatchedRun], store: Store, queue: Queue) -> None:
        self.runs, self.store, self.queue = runs, store, queue
        self.silent_since: float | None = None
        """When the queue stopped to answer."""
        self._endings: dict[Task, TaskState] = {}
        self._told: set[str] = set()

    def refresh(self) -> bool:
        """Look at everything once. False when there is nothing left to wait for."""
        states = self.queue.states()  # before the records: a run that ends in between is found at the next look
        if states is None:
            self.silent_since = self.silent_since or time.monotonic()
            return True
        self.silent_since = None
        self._endings |= {task: state for task, state in states.items() if state.state == "ended"}
        held = {run_id for run_id, holder in self.store.holders().items() if holder.alive}
        going = [self._refresh_run(run, states, run.run_id in held) for run in self.runs]
        return any(going)

    def news(self) -> list[WatchedRun]:
        """Runs that have got their result since this was last asked."""
        ended = [run for run in self.runs if run.state in FINAL and run.run_id not in self._told]
        self._told |= {run.run_id for run in ended}
        return ended

    def _refresh_run(self, run: WatchedRun, states: Mapping[Task, TaskState], held: bool) -> bool:
        """Whether the run is worth another look."""
        if run.state in FINAL:
            return False
        task = None if run.task is None else states.get(run.task) or self._endings.get(run.task)
        run.job_id = task.job_id if task else run.job_id
        run.state, run.note = look(run, task, self.store.load(run.run_id), held)
        run.waits = task is not None and task.state == "pending" and run.state not in FINAL
        if run.state in FINAL:
            return False
        if run.state in ("pending", "running"):
            run.looks = 0
            return True
        run.looks += 1
        return run.looks < LOOKS_AFTER_END

    def counts(self) -> dict[str, int]:
        """Runs by state, states without runs left out."""
        found = Counter(run.state for run in self.runs)
        return {state: found[state] for state in STATES if found[state]}

    def lines(self) -> list[str]:
        """A line a state, with what there is to say of it."""
        lines = []
        for state, count in self.counts().items():
            runs = [run for run in self.runs if run.state == state]
            notes = [self._running(run) if state == "running" else run.note for run in runs if state not in FINAL]
            common = Counter(filter(None, notes)).most_common(SHOWN)
            shown = "; ".join(f"{note} ({n})" if n > 1 else note for note, n in common)
            lines.append(f"{state:<12}{count:>6}   {shown}".rstrip())
        if self.silent_since is not None:
            lines.append(f"the queue has not answered for {duration(time.monotonic() - self.silent_since)}")
        return lines

    def _running(self, run: WatchedRun) -> str:
        """Where a run is."""
        progress = read_progress(self.store.folder(run.run_id)) or {}
        step, steps = progress.get("step"), progress.get("steps")
        return f"{run.label} {step}/{steps}" if step and steps else run.label

    def wait(self, poll_seconds: float, each_look: Callable[[Watch], None]) -> None:
        """Look until the end, showing the state live on a terminal, else in one line whenever it changes."""
        with _Display() as display:
            going = True
            while going:
                going = self.refresh()
                display.show(self)
                each_look(self)
                if going:
                    time.sleep(poll_seconds)


class _Display:
    """A line for each run that ends; how all stand below them on a terminal, and at each change elsewhere."""

    def __init__(self) -> None:
        from rich.live import Live

        self._console = new_console()
        live = self._console.is_terminal
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if live else None
        self._shown, self._over = "", 0

    def __enter__(self) -> _Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, watch: Watch) -> None:
        """The newest state."""
        from rich.text import Text

        for run in watch.news():
            self._over += 1
            self._print(f"[{self._over}/{len(watch.runs)}] {run.label}: {run.note}")
        if self._live is not None:
            lines = (printable(line, self._console.encoding) for line in watch.lines())
            self._live.update(Text("\n".join(lines), style="cyan", overflow="ellipsis", no_wrap=True), refresh=True)
            return
        line = " · ".join(f"{state} {count}" for state, count in watch.counts().items())
        if line != self._shown:
            self._print(f"{time.strftime('%H:%M:%S')}  {line}")
            self._shown = line

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(printable(line, self._console.encoding)))
