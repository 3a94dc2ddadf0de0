"""The `local` launcher: the runs of a sweep on this machine, each backbone loaded as seldom as can be.

With `n_jobs=1` all runs are done in this process, one after the other; with more, in as many worker processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from peftbench.config.schema import number, one_of
from peftbench.inputs import InputCache
from peftbench.records.leaderboard import rebuilt_sparingly, refresh, rows_of
from peftbench.records.store import Store
from peftbench.sweeps.group import run_jobs
from peftbench.sweeps.jobs import Job, backbone_key
from peftbench.sweeps.live import SweepDisplay
from peftbench.sweeps.order import WaitingJobs
from peftbench.sweeps.pool import Pool
from peftbench.sweeps.run_job import CLAIMED, MISTAKE, Ended
from peftbench.sweeps.sharing import group_size
from peftbench.sweeps.sweep import Sweep

LOOK_SECONDS = 1.0
"""Between two looks at a run that another process has in hand."""


@dataclass
class LocalOptions:
    """`conf/hydra/launcher/local.yaml`."""

    n_jobs: int = number(1, ge=1)
    on_failure: str = one_of("continue", "stop", default="continue")


class Runner(Protocol):
    """Who does the runs: this process or a pool of others."""

    loads: int

    @property
    def current(self) -> Sequence[Job]:
        """What is being worked on."""

    def run(self, line: WaitingJobs) -> Iterator[tuple[Job, Ended]]:
        """Do every job of `line`; each is yielded when it has ended."""


@dataclass
class InProcess:
    """Does the runs in this process."""

    inputs: InputCache
    loads: int = 0
    current: list[Job] = field(default_factory=list)

    def run(self, line: WaitingJobs) -> Iterator[tuple[Job, Ended]]:
        """See `Runner`."""
        from peftbench.models.backbone_cache import keep_loaded

        backbone = None
        with keep_loaded() as cache:
            while (taken := line.take(backbone)) is not None:
                job, backbone = taken
                assert job.config is not None
                self.current = [job, *line.take_like(job, group_size(job.config))]
                ended = run_jobs(self.current, self.inputs)
                done, self.current, self.loads = self.current, [], cache.loads
                yield from zip(done, ended, strict=True)


@dataclass
class LocalLauncher:
    """Does the jobs of one sweep.

    Attributes:
        mistakes: what turned out to be wrong with jobs that cannot be runs, by number.
        todo: how many runs were not done at the start.
        began: how many runs with a backbone were started here.
    """

    sweep: Sweep
    store: Store
    options: LocalOptions
    inputs: InputCache
    mistakes: dict[int, str] = field(default_factory=dict)
    todo: int = 0
    began: int = 0

    def launch(self, jobs: Sequence[Job]) -> Runner:
        """Do all jobs but those that are done already. What came of them is in the records.

        Raises:
            KeyboardInterrupt: on Ctrl-C; runs in training have saved a checkpoint.
        """
        todo = self._not_done(jobs)
        self.todo = len(todo)
        pool = self.options.n_jobs > 1 and len(todo) > 1
        runner: Runner = (
            Pool(min(self.options.n_jobs, len(todo)), self.sweep.logs, self.inputs) if pool else InProcess(self.inputs)
        )
        with SweepDisplay(self.store, todo, lambda: runner.current) as display, rebuilt_sparingly():
            while todo:
                todo = self._free(self._pass(WaitingJobs(todo, self.inputs), runner, display), display)
        refresh(self.store)
        return runner

    def _not_done(self, jobs: Sequence[Job]) -> list[Job]:
        runs = [job for job in jobs if job.run_id is not None and job.same_as is None]
        rows = rows_of(self.store, [str(job.run_id) for job in runs])
        done = {run_id for run_id, row in rows.items() if row["status"] == "done"}
        return [job for job in runs if job.run_id not in done or (job.config is not None and job.config.rerun)]

    def _pass(self, line: WaitingJobs, runner: Runner, display: SweepDisplay) -> list[Job]:
        """Everything in `line` once; the jobs that others have in hand."""
        left = []
        with closing(runner.run(line)) as ends:  # type: ignore[type-var]
            for job, ended in ends:
                display.ended(job, ended)
                self.began += ended.status not in (CLAIMED, MISTAKE) and bool(job.config and backbone_key(job.config))
                if ended.status == CLAIMED:
                    left.append(job)
                elif ended.status == MISTAKE:
                    self.mistakes[job.number] = ended.words
                if self.options.on_failure == "stop" and ended.status not in ("done", CLAIMED) and len(line):
                    display.say(f"on_failure=stop: {len(line)} runs that have not begun are left out")
                    line.clear()
                    left.clear()
        return left

    def _free(self, jobs: list[Job], display: SweepDisplay) -> list[Job]:
        """Wait until a job that another process had in hand is done or let go; all those that are."""
        if jobs:
            display.say(f"waiting for {len(jobs)} runs that other processes have in hand (Ctrl-C stops waiting)")
        while jobs:
            held = {run_id for run_id, holder in self.store.holders().items() if holder.alive}
            if free := [job for job in jobs if job.run_id not in held]:
                return free + [job for job in jobs if job.run_id in held]
            time.sleep(LOOK_SECONDS)
        return []
