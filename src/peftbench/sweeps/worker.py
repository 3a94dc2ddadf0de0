"""The program of one task of an array job: `python -m peftbench.sweeps.worker TASKS.jsonl INDEX`.

It stays small (no torch) and lets others work: a worker process for all runs of the task, so that their backbone stays
loaded, or `srun` for each run that several processes train together. So a process that is killed takes its own run
along and no other, and when the time is up somebody is there to put the job back into the queue.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

from peftbench.attempt import STOP_SIGNALS
from peftbench.config.load import from_plain
from peftbench.config.schema import RunConfig
from peftbench.errors import Interrupted, UsageError
from peftbench.imports import process_is_ours
from peftbench.inputs import InputCache
from peftbench.records.store import Store
from peftbench.stages import stages_of
from peftbench.sweeps.arrays import ArrayOptions, ArrayTask, read_task, task_folder
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.order import WaitingJobs
from peftbench.sweeps.pool import Pool
from peftbench.sweeps.run_job import CLAIMED, Ended, file_death, in_one_line
from peftbench.training.launch import LEASH, check_address, meeting_address

WORKER = "peftbench.ddp_worker"
DONE, FAILED = 0, 1
SETTLED = ("done", "failed", "diverged")
Ends = Generator[tuple[Job, Ended], None, None]
LOCAL_REQUEUE = 144
"""Exit code that asks to be started again, where no SLURM can be told (submitit's local controller takes it)."""
SAVING_SHARE = 0.7
"""Of the time between signal and limit, what processes have for their checkpoints before the job is requeued anyway."""


def work(task: ArrayTask, home: Path) -> int:
    """Do what is left of the task; the exit code. `home`: a folder of its own that all its machines see."""
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)
    failed = False
    try:
        with closing(_each(open_jobs(task), task.options, home)) as ends:
            for job, ended in ends:
                print(f"{job.run_id}  {ended.words}", flush=True)
                failed = failed or ended.status not in ("done", CLAIMED)
                if failed and task.options.on_failure == "stop":
                    break
    except Interrupted as stop:
        return leave(stop, task)
    return FAILED if failed else DONE


def open_jobs(task: ArrayTask) -> list[Job]:
    """The task's runs that are not settled, in order. What this very job began before it was requeued is resumed."""
    jobs = []
    for number, run in enumerate(task.runs):
        config = from_plain(run.config)
        record = Store(config.out_dir).load(run.run_id)
        ours = record is not None and record.created != run.earlier
        if record is not None and record.status in (SETTLED if ours else () if config.rerun else ("done",)):
            continue
        jobs.append(Job(number, (), replace(config, rerun=config.rerun and not ours), run.run_id))
    return jobs


def _each(jobs: Sequence[Job], options: ArrayOptions, home: Path) -> Ends:
    """Every job, in one process or in several that train together. Floors never need more than one."""
    together = [job for job in jobs if options.processes > 1 and trains_together(job)]
    yield from _one_process([job for job in jobs if job not in together], options, home)
    yield from _several_processes(together, options, home)


def trains_together(job: Job) -> bool:
    """Whether several processes can do the run."""
    assert job.config is not None
    method = job.config.method
    return method.needs_model and all(stage.several_processes for stage in stages_of(method.stages))


def _one_process(jobs: Sequence[Job], options: ArrayOptions, home: Path) -> Ends:
    """The runs one after the other in a worker process."""
    inputs = InputCache()
    pool = Pool(1, home, inputs, environment(options), grace=SAVING_SHARE * options.signal_delay_s)
    yield from pool.run(WaitingJobs(jobs, inputs))


def _several_processes(jobs: Sequence[Job], options: ArrayOptions, home: Path) -> Ends:
    """Each run in a step of its own, whose processes train together."""
    inputs, refusal = InputCache(), cannot_meet(options) if jobs else ""
    for job in jobs:
        assert job.config is not None
        if refusal:
            file_death(job.config, inputs, refusal, log=_log())
            yield job, Ended("failed", refusal)
            continue
        store = Store(job.config.out_dir)
        before = store.load(str(job.run_id))
        code = _step(job.config, options, home)
        record = store.load(str(job.run_id))
        if record is not None and (before is None or record.created != before.created):
            yield job, Ended(record.status, in_one_line(record))
            continue
        reason = f"its {options.processes} processes ended with exit code {code} before they filed a record"
        file_death(job.config, inputs, reason, log=_log())
        yield job, Ended("failed", reason)


def cannot_meet(options: ArrayOptions) -> str:
    """Why the processes of a run could not meet on the nodes of this job; "" if they could, as seen from here."""
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        return ""
    try:
        check_address(meeting_address(os.environ, nodes, alone=options.nodes == 1))
    except UsageError as error:
        return str(error)
    return ""


def _step(config: RunConfig, options: ArrayOptions, home: Path) -> int:
    """`srun` for one run; its exit code. A stop signal is passed on, and there is time to save a checkpoint then."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "config.json"
    path.write_text(json.dumps(asdict(config)), encoding="utf-8")
    command = [*srun(options), sys.executable, "-u", "-m", WORKER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**environment(options), LEASH: "1"})
    try:
        return process.wait()
    except Interrupted as stop:
        process.send_signal(stop.code - 128)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SAVING_SHARE * options.signal_delay_s)
        raise
    finally:
        path.unlink(missing_ok=True)


def srun(options: ArrayOptions) -> list[str]:
    """One step of all tasks of the job; the first process to fail ends it."""
    command = ["srun", "--unbuffered", "--kill-on-bad-exit=1", f"--nodes={options.nodes}"]
    command += [f"--ntasks={options.processes}", f"--ntasks-per-node={options.tasks_per_node}"]
    return command + ([f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else [])


def environment(options: ArrayOptions) -> dict[str, str]:
    """This process's, with a thread for each core that a process was given: without cgroups torch would take all."""
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    cores = int(given) if given else int(os.environ.get("SLURM_CPUS_ON_NODE", 0)) // options.tasks_per_node
    return {**({"OMP_NUM_THREADS": str(cores)} if cores else {}), **os.environ}


def leave(stop: Interrupted, task: ArrayTask) -> int:
    """After a stop signal: back into the queue if the time was up, else what the queue has decided on anyway."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if stop.code != 128 + signal.SIGUSR2 or not open_jobs(task):
        return stop.code
    if not task.options.requeue or restarts >= task.options.max_requeue:
        print(f"the time is up; after {restarts} restarts the job is not queued again", flush=True)
        return stop.code
    print("the time is up; the job goes back into the queue", flush=True)
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is None:
        return LOCAL_REQUEUE
    # not SLURM_JOB_ID: for one of the tasks that is the id of the whole array
    subprocess.run(["scontrol", "requeue", f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"], check=False)
    return stop.code


def _stop(number: int, _frame: FrameType | None) -> None:
    """The first stop signal ends the work; the others, and there will be some, must not disturb the leaving."""
    for later in STOP_SIGNALS:
        signal.signal(later, signal.SIG_IGN)
    raise Interrupted(number)


def _log() -> str:
    """The file that this process's output goes to; "" if it is none."""
    with suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        return path if os.path.isfile(path) else ""
    return ""


def main(argv: list[str]) -> int:
    """Read the task and do it."""
    path, index = Path(argv[0]), int(argv[1])
    return work(read_task(path, index), task_folder(path, index))


if __name__ == "__main__":
    process_is_ours()
    sys.exit(main(sys.argv[1:]))
