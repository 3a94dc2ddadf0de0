"""The `slurm` launcher: submits what is missing, watches, and loses nothing.

The jobs do the work without this process (`peftbench.sweeps.worker`): it may be interrupted, and typed again it finds
what is done in the records, what is queued in the sweeps' folders and the queue, and submits the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from peftbench.errors import UsageError
from peftbench.files import readable_errors
from peftbench.records.leaderboard import rows_of
from peftbench.records.store import Store
from peftbench.sweeps.arrays import (
    ArrayOptions,
    ArraySpec,
    ArrayTask,
    SubmittedArray,
    TaskRun,
    arrays,
    now,
    remember,
    remembered,
    write_tasks,
)
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.live import labels
from peftbench.sweeps.queues import Queue, Task, TaskState
from peftbench.sweeps.watch import Watch, WatchedRun
from peftbench.views.display import say

WORKER = [sys.executable, "-u", "-m", "peftbench.sweeps.worker"]
INTERRUPTED = 130


@dataclass
class RunsByState:
    """How the runs of a sweep stand before anything is submitted."""

    done: list[str] = field(default_factory=list)
    queued: list[WatchedRun] = field(default_factory=list)
    """In a job of an earlier command that waits or runs."""
    claimed: list[WatchedRun] = field(default_factory=list)
    """In the hands of a living process outside of any array."""
    missing: list[Job] = field(default_factory=list)
    earlier: dict[str, str] = field(default_factory=dict)
    """`created` of the records there are, by run id."""


def sort_by_state(jobs: Sequence[Job], store: Store, active: dict[str, WatchedRun]) -> RunsByState:
    """Sort the runs of `jobs`; wrong and repeated jobs are left out. `active`: the runs of living tasks, by run id."""
    runs = [job for job in jobs if job.config is not None and job.run_id is not None and job.same_as is None]
    rows, holders = rows_of(store, [str(job.run_id) for job in runs]), store.holders()
    by_state = RunsByState(earlier={run_id: row["created"] for run_id, row in rows.items()})
    for job in runs:
        run_id = str(job.run_id)
        if run_id in rows and rows[run_id]["status"] == "done" and not (job.config and job.config.rerun):
            by_state.done.append(run_id)
        elif run_id in active and not active[run_id].settled_by(rows.get(run_id)):
            by_state.queued.append(active[run_id])
        elif run_id in holders and holders[run_id].alive:
            by_state.claimed.append(WatchedRun(run_id, None, by_state.earlier.get(run_id)))
        else:
            by_state.missing.append(job)
    return by_state


def active_runs(sweeps: Path, states: dict[Task, TaskState]) -> dict[str, WatchedRun]:
    """Every run that some earlier sweep handed to a task which still waits or runs."""
    found = {}
    for folder, array in remembered(sweeps):
        for index, run_ids in enumerate(array.tasks):
            state = states.get((array.name, index))
            if state is not None and state.state != "ended":
                for run_id in run_ids:
                    found[run_id] = WatchedRun(run_id, (array.name, index), array.earlier.get(run_id), folder)
    return found


class ArrayLauncher:
    """Does the jobs of one sweep as array jobs of a queue."""

    def __init__(self, folder: Path, out_dir: Path, options: ArrayOptions, queue: Queue) -> None:
        """`folder`: the sweep's own, under `out_dir`/sweeps; its name is the sweep's id."""
        self.folder, self.out_dir, self.options, self.queue = folder, out_dir, options, queue
        self.store = Store(out_dir)
        self.job_ids: list[str] = []
        self.cancelled: set[str] = set()

    def launch(self, jobs: Sequence[Job]) -> list[WatchedRun]:
        """Submit what is missing and, with `wait`, watch to the end; the runs that were not done at the start.

        Raises:
            UsageError: the queue does not answer or refuses the job; nothing was submitted then.
        """
        runs = self.submit(jobs)
        if not runs or not self.options.wait:
            return runs
        watch = Watch(runs, self.store, self.queue)
        try:
            watch.wait(self.options.poll_s, self._after_look)
        except KeyboardInterrupt:
            self._leave()
            raise SystemExit(INTERRUPTED) from None
        return runs

    def submit(self, jobs: Sequence[Job]) -> list[WatchedRun]:
        """Submit what neither is done nor queued nor being worked on; the runs to watch."""
        sweeps = self.out_dir / "sweeps"
        with one_at_a_time(sweeps):
            states = self.queue.states()
            if states is None:
                raise UsageError("squeue does not answer, so nothing was submitted. `sinfo` shows how the cluster is.")
            by_state = sort_by_state(jobs, self.store, active_runs(sweeps, states))
            specs = arrays(by_state.missing, self.options)
            submitted = self._submit_arrays(specs, {job.number: job for job in jobs}, by_state.earlier)
        self._announce(jobs, by_state, specs, states)
        runs, names = [*by_state.queued, *by_state.claimed, *submitted], labels(jobs)
        label_of = {job.run_id: names[job.number] for job in jobs if job.same_as is None}
        return [replace(run, label=label_of[run.run_id]) for run in runs]

    def _submit_arrays(
        self, specs: Sequence[ArraySpec], by_number: dict[int, Job], earlier: dict[str, str]
    ) -> list[WatchedRun]:
        """The runs of the arrays that the queue took. After the first, a refusal is told and ends the submitting."""
        runs = []
        for index, spec in enumerate(specs):
            tasks = [
                ArrayTask([_task_run(by_number[number], earlier) for number in task], self.options)
                for task in spec.tasks
            ]
            try:
                runs += self._submit_array(index, tasks)
            except UsageError as error:
                if not self.job_ids:
                    raise
                say(f"{error} What was submitted goes on; the same command submits the rest.")
                break
        return runs

    def _submit_array(self, index: int, tasks: Sequence[ArrayTask]) -> list[WatchedRun]:
        """Write what the tasks will read, submit them, and remember the job's id."""
        name = f"peftbench-{self.folder.name}-{index}"
        path = write_tasks(self.folder, index, tasks).resolve()
        earlier = {run.run_id: run.earlier for task in tasks for run in task.runs if run.earlier is not None}
        array = SubmittedArray(name, "", now(), [[run.run_id for run in task.runs] for task in tasks], earlier)
        remember(self.folder, index, array)  # its name alone finds it in the queue, should this process die now
        logs = (self.folder / "logs").resolve()
        logs.mkdir(parents=True, exist_ok=True)
        commands = [[*WORKER, str(path), str(number)] for number in range(len(tasks))]
        array.job_id = self.queue.submit(name, commands, logs, self.options)
        remember(self.folder, index, array)
        self.job_ids.append(array.job_id)
        return [
            WatchedRun(run.run_id, (name, number), run.earlier, self.folder)
            for number, task in enumerate(tasks)
            for run in task.runs
        ]

    def _announce(
        self, jobs: Sequence[Job], by_state: RunsByState, specs: Sequence[ArraySpec], states: dict[Task, TaskState]
    ) -> None:
        """What was found and what was submitted."""
        repeated = sum(job.same_as is not None for job in jobs)
        counts = [
            (len(by_state.done), "done already"),
            (repeated, "the same as another"),
            (len(by_state.queued), "in the queue already"),
            (len(by_state.claimed), "in the hands of other processes"),
            (len(by_state.missing), "submitted"),
        ]
        words = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing to do"
        say(f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}: {words}")
        for job_id, spec in zip(self.job_ids, specs, strict=False):
            say(f"job {job_id}: {spec}; logs in {self.folder / 'logs'}")
        earlier = {states[run.task].job_id.partition("_")[0] for run in by_state.queued if run.task}
        self.job_ids += sorted(earlier - set(self.job_ids))
        if self.job_ids:
            say(self._what_to_do())

    def _what_to_do(self) -> str:
        return f"look: peftbench status {self.folder.name}   cancel: scancel {' '.join(self.job_ids)}"

    def _after_look(self, watch: Watch) -> None:
        """`on_failure=stop`: what has not begun is cancelled after the first failure."""
        if self.options.on_failure == "stop" and any(run.state in ("failed", "diverged") for run in watch.runs):
            waiting = {run.job_id for run in watch.runs if run.waits} - self.cancelled
            if waiting:
                say(f"a run failed and on_failure=stop: {len(waiting)} jobs that had not begun are cancelled")
                self.queue.cancel(waiting)
                self.cancelled |= waiting

    def _leave(self) -> None:
        """Ctrl-C at the front."""
        if not self.queue.outlives_us:
            self.queue.cancel(self.job_ids)
            say("interrupted; what was finished is kept, the same command goes on.")
            return
        say("this view is closed, the jobs go on; the same command shows them again and submits only what is missing.")
        say(self._what_to_do())


def _task_run(job: Job, earlier: dict[str, str]) -> TaskRun:
    """A job as the worker will read it."""
    assert job.config is not None
    assert job.run_id is not None
    return TaskRun(job.run_id, asdict(job.config), earlier.get(job.run_id))


@contextmanager
def one_at_a_time(sweeps: Path) -> Iterator[None]:
    """Of two commands at once the second waits, so that they do not submit the same run.

    Where the file system has no locks they do not wait; the claims then keep a run from being done by two.
    """
    from filelock import FileLock

    with readable_errors("write to", sweeps):
        sweeps.mkdir(parents=True, exist_ok=True)
    lock = FileLock(sweeps / ".submit.lock")
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
