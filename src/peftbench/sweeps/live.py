"""What a person sees while a sweep runs: a line for each run that ends and, on a terminal, how the whole stands."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from peftbench.measure.clock import duration
from peftbench.records.states import read_progress
from peftbench.records.store import Store
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.run_job import CLAIMED, Ended
from peftbench.views.display import new_console
from peftbench.views.summary import printable

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {"done": "green", CLAIMED: "cyan"}


class SweepDisplay:
    """Context manager around the runs of a sweep on this machine."""

    def __init__(self, store: Store, jobs: Sequence[Job], current: Callable[[], Sequence[Job]]) -> None:
        """`jobs`: all that are to be done; `current`: those being worked on at this moment."""
        from rich.live import Live

        self._store, self._current, self._total = store, current, len(jobs)
        self._labels = labels(jobs)
        self._states: dict[int, str] = {}
        self._began = time.monotonic()
        self._console = new_console()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._block, refresh_per_second=2, transient=True)

    def __enter__(self) -> SweepDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def ended(self, job: Job, ended: Ended) -> None:
        """A run has ended, or was found in other hands."""
        from rich.text import Text

        self._states[job.number] = ended.status
        over = sum(state != CLAIMED for state in self._states.values())
        text = Text(f"[{over}/{self._total}] ", style="dim")
        text.append(printable(f"{self._labels[job.number]}: ", self._console.encoding))
        style = STYLES.get(ended.status, "red")
        text.append(printable(ended.words, self._console.encoding), style=style)
        self._console.print(text)

    def say(self, words: str) -> None:
        """A line of its own."""
        from rich.text import Text

        self._console.print(Text(printable(words, self._console.encoding)))

    def line(self) -> str:
        """How the sweep stands, by state."""
        counts = Counter(self._states.values())
        running = len(self._current())
        counts["running"], counts["waiting"] = running, max(0, self._total - len(self._states) - running)
        shown = " · ".join(f"{state} {count}" for state, count in counts.items() if count)
        return f"{shown} · {duration(time.monotonic() - self._began)}"

    def _block(self) -> Text:
        from rich.text import Text

        lines = [self.line()]
        for job in self._current():
            progress = read_progress(self._store.folder(str(job.run_id))) or {}
            step, steps, loss = (progress.get(name) for name in ("step", "steps", "loss"))
            where = f"{progress.get('phase', '')} {step}/{steps}" if step and steps else str(progress.get("phase", ""))
            lines.append(f"  {self._labels[job.number]}  {where}" + (f"  loss {loss:.3f}" if loss is not None else ""))
        return Text("\n".join(printable(line, self._console.encoding) for line in lines[:12]), style="cyan")


def labels(jobs: Sequence[Job]) -> dict[int, str]:
    """What tells the jobs of a sweep apart: those of their overrides that they do not all have."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    own = {job.number: " ".join(o for o in job.overrides if o not in common) for job in jobs}
    return {number: text or f"run {number}" for number, text in own.items()}
