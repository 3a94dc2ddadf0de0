"""From the jobs that a command line asks for to an exit code, whatever launcher does them.

Every value is checked before the first run begins; at the end the records tell what came of the runs. Hydra knows the
launchers by `hydra_plugins.peftbench_launchers`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.attempt import Attempt
from peftbench.config.sections import build
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.records.leaderboard import rows_of
from peftbench.records.store import Store
from peftbench.sweeps.arrays import ArrayOptions
from peftbench.sweeps.jobs import Job, compose_jobs
from peftbench.sweeps.live import labels
from peftbench.sweeps.local import LocalLauncher, LocalOptions
from peftbench.sweeps.sweep import Sweep, report, warnings_by_kind
from peftbench.views.summary import OFFLINE, OFFLINE_WORDS

DONE, FAILED, USAGE = 0, 1, 2
SHOWN = 5
"""Jobs that are named beside a mistake that they share."""


@dataclass
class Launch:
    """What a launcher is given, and what it tells beside the records."""

    sweep: Sweep
    store: Store
    options: Any
    inputs: InputCache
    jobs: Sequence[Job]
    mistakes: dict[int, str] = field(default_factory=dict)
    """What turned out to be wrong with jobs when they began, by number."""
    waited: bool = True
    """False if the runs go on elsewhere after the launcher has come back."""
    saved: str = ""
    """Work that was not done twice, in words."""
    why: dict[str, str] = field(default_factory=dict)
    """Why runs did not come to their end, by run id, where their records cannot know."""


def run_sweep(launcher: str, options: Mapping[str, Any], job_overrides: Sequence[Sequence[str]]) -> int:
    """Do all jobs with the launcher of that name; returns the exit code.

    Raises:
        UsageError: a job does not compose, or none can be a run. Nothing was run then.
        KeyboardInterrupt: Ctrl-C or another stop signal; the runs at work have been told to save and end, and what
            is left has been said.
    """
    option_class, start = LAUNCHERS[launcher]
    checked: Any = build(option_class, dict(options), "hydra.launcher")
    inputs = InputCache()
    jobs = compose_jobs(job_overrides, inputs)
    refuse(jobs)
    out_dir = one_out_dir(jobs)
    store = Store(out_dir)
    launch = Launch(Sweep.create(out_dir, jobs, launcher), store, checked, inputs, jobs)
    launch.mistakes |= tell_mistakes(jobs)
    try:
        with Attempt().signals():
            start(launch)
    except UsageError:  # the launcher could not begin
        shutil.rmtree(launch.sweep.folder, ignore_errors=True)
        raise
    except KeyboardInterrupt as stop:
        print(f"peftbench: {what_is_left(launch, stop)}", file=sys.stderr)
        raise
    return tell_end(launch) if launch.waited else DONE


def what_is_left(launch: Launch, stop: KeyboardInterrupt) -> str:
    """One line about a sweep that was told to stop."""
    states = [record.status if record else "" for _, record in launch.sweep.outcomes(launch.store)]
    done, by = states.count("done"), str(stop).partition(" ")[0] or "Ctrl-C"
    left = len(states) - done
    return f"{by}: sweep {launch.sweep.sweep_id} ended; {done} of {len(states)} runs are done, {left} runs left."


def refuse(jobs: Sequence[Job]) -> None:
    """Raise UsageError if a job does not compose, or if no job can be a run."""
    broken = [job for job in jobs if job.config is None] or [job for job in jobs if job.error]
    if broken and (broken[0].config is None or len(broken) == len(jobs)):
        more = len({job.error for job in broken}) - 1
        raise UsageError(broken[0].error + (f" ({more} more mistakes of this kind.)" if more else ""))


def one_out_dir(jobs: Sequence[Job]) -> Path:
    """The folder of the sweep's results."""
    folders = {job.config.out_dir for job in jobs if job.config is not None}
    if len(folders) > 1:
        raise UsageError(f"out_dir={','.join(sorted(folders))}: the runs of a sweep go into one folder.")
    return Path(folders.pop())


def tell_mistakes(jobs: Sequence[Job]) -> dict[int, str]:
    """Say which jobs cannot be runs, since their data or draw is wrong; the others go on."""
    wrong = {job.number: job.error for job in jobs if job.error}
    for line in of_mistakes(wrong, labels(jobs)):
        print(f"peftbench: {line}", file=sys.stderr)
    return wrong


def of_mistakes(mistakes: Mapping[int, str], names: Mapping[int, str]) -> list[str]:
    """A line for each kind of mistake, with the jobs that have it."""
    kinds: dict[str, list[str]] = {}
    for number, error in mistakes.items():
        kinds.setdefault(error, []).append(names[number])
    lines = []
    for error, members in kinds.items():
        more = f"; and {len(members) - SHOWN} more" if len(members) > SHOWN else ""
        lines.append(f"could not start: {'; '.join(members[:SHOWN])}{more}: {error}")
    return lines


def tell_end(launch: Launch) -> int:
    """The table of means, what was saved, what failed and why; the exit code."""
    from peftbench.views.display import say
    from peftbench.views.leaderboard_command import print_means

    outcomes = [
        (job, record) for job, record in launch.sweep.outcomes(launch.store) if job.number not in launch.mistakes
    ]
    done = [job for job, record in outcomes if record is not None and record.status == "done"]
    if done:
        print_means(launch.store, list(rows_of(launch.store, [str(job.run_id) for job in done]).values()))
    if launch.saved:
        say(launch.saved)
    begun = f"{len(done)} of {len(outcomes) + len(launch.mistakes)} runs are done"
    unbegun = f", {len(launch.mistakes)} could not start" if launch.mistakes else ""
    say(f"{begun}{unbegun}; sweep {launch.sweep.sweep_id}")
    for line in report(outcomes, launch.why).splitlines():
        say(line)
    for line in [*of_mistakes(launch.mistakes, labels(launch.jobs)), *warnings_by_kind(outcomes)]:
        say(line)
    if offline := [job for job in done if any(launch.store.folder(str(job.run_id)).glob(OFFLINE))]:
        say(f"W&B: {len(offline)} runs logged offline in {launch.store.out_dir}/runs/*/wandb; {OFFLINE_WORDS}")
    if done:
        say("next: peftbench leaderboard --group, peftbench compare A B, peftbench report")
    return USAGE if launch.mistakes else DONE if len(done) == len(outcomes) else FAILED


def local(launch: Launch) -> None:
    """On this machine."""
    worker = LocalLauncher(launch.sweep, launch.store, launch.options, launch.inputs)
    try:
        runner = worker.launch(launch.jobs)
    finally:
        launch.mistakes |= worker.mistakes
    runs = [job for job in launch.jobs if job.run_id is not None]
    repeated = sum(job.same_as is not None for job in runs)
    facts = [
        (len(runs) - repeated - worker.todo, "done already"),
        (repeated, "the same as another"),
    ]
    words = [f"{count} {what}" for count, what in facts if count]
    if 0 < runner.loads < worker.began:
        times = "once" if runner.loads == 1 else f"{runner.loads} times"
        words.append(f"a backbone was loaded {times} for {worker.began} runs")
    launch.saved = "saved: " + ", ".join(words) if words else ""


def slurm(launch: Launch) -> None:
    """As array jobs of the cluster that this machine belongs to."""
    from peftbench.records.leaderboard import refresh
    from peftbench.sweeps.queues import SlurmQueue
    from peftbench.sweeps.slurm import ArrayLauncher

    launch.waited = launch.options.wait
    launcher = ArrayLauncher(launch.sweep.folder, launch.store.out_dir, launch.options, SlurmQueue())
    runs = launcher.launch(launch.jobs)
    launch.why = {run.run_id: run.why for run in runs if run.why}
    if launch.waited:
        refresh(launch.store)


LAUNCHERS: dict[str, tuple[type, Callable[[Launch], None]]] = {
    "local": (LocalOptions, local),
    "slurm": (ArrayOptions, slurm),
}
"""Name -> its options, and who does the jobs."""
