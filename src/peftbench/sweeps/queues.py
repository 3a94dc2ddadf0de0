"""Where array jobs wait and run: SLURM, driven through submitit's executor.

Only submitit's handling of the queue is used (the batch file and `sbatch`). Its pickles are not: what is submitted is a
command line that reads a JSON file, and results are read from records.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from peftbench.errors import UsageError
from peftbench.files import check_place
from peftbench.sweeps.arrays import ArrayOptions

Task = tuple[str, int]
"""Name of an array job and index of one of its tasks."""

PENDING_STATES = [
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
    "SUSPENDED",
    "STOPPED",
]
RUNNING_STATES = ["RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"]
SQUEUE_SECONDS = 60
SQUEUE = ["squeue", "--noheader", "--array", "--states=all", "--format=%F|%K|%T|%r|%j"]


@dataclass(frozen=True)
class TaskState:
    """What the queue says of one task."""

    state: Literal["pending", "running", "ended"]
    reason: str = ""
    """Why it waits, or how it ended, in the queue's words."""
    job_id: str = ""
    """As `scancel` takes it."""


class Queue(Protocol):
    """Takes array jobs and says how their tasks are."""

    outlives_us: bool
    """Whether jobs go on when this process ends."""

    def submit(self, name: str, commands: Sequence[Sequence[str]], logs: Path, options: ArrayOptions) -> str:
        """Queue one task a command; the job's id. Raises UsageError if the queue refuses."""

    def states(self) -> dict[Task, TaskState] | None:
        """Every task that the queue still knows, or None while the queue does not answer."""

    def cancel(self, job_ids: Iterable[str]) -> None:
        """End jobs, waiting or running."""


class SlurmQueue:
    """The real thing. Needs sbatch, squeue and scancel; accounting (sacct) is never asked."""

    outlives_us = True

    def __init__(self) -> None:
        missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
        if missing:
            raise UsageError(
                f"hydra/launcher=slurm: {', '.join(missing)} not found, this is no machine of a SLURM cluster. "
                "Run here with `hydra/launcher=local`."
            )
        need_submitit()

    def submit(self, name: str, commands: Sequence[Sequence[str]], logs: Path, options: ArrayOptions) -> str:
        """One `sbatch --array`; each task runs the command of its index."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            executor = slurm_executor(name, len(commands), logs, options)
            return executor._submit_command(array_command(commands)).job_id
        except (FailedJobError, FailedSubmissionError) as error:
            raise UsageError(f"hydra/launcher=slurm: sbatch refused: {sbatch_error(str(error))}") from None

    def states(self) -> dict[Task, TaskState] | None:
        """One squeue for all jobs of this user. Ended tasks are known for some minutes (SLURM's MinJobAge)."""
        try:
            answer = subprocess.run(
                [*SQUEUE, f"--user={os.getuid()}"], capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=True
            )
        except (subprocess.SubprocessError, OSError):
            return None
        return parse_squeue(answer.stdout)

    def cancel(self, job_ids: Iterable[str]) -> None:
        """`scancel`; jobs that have ended are no error."""
        subprocess.run(["scancel", *job_ids], capture_output=True, timeout=SQUEUE_SECONDS, check=False)


def slurm_executor(name: str, tasks: int, logs: Path, options: ArrayOptions) -> Any:
    """submitit's executor for one array of `tasks` tasks."""
    from submitit.slurm.slurm import SlurmExecutor

    check_place("out_dir", logs)
    executor = SlurmExecutor(logs)
    try:
        executor.update_parameters(**sbatch_parameters(name, options))
    except (ValueError, TypeError) as error:
        raise UsageError(f"hydra/launcher=slurm: {error}") from None
    executor.parameters["map_count"] = tasks
    return executor


def sbatch_parameters(name: str, options: ArrayOptions) -> dict[str, Any]:
    """The launcher's options in the words of submitit's SlurmExecutor; what is not set is left to the cluster.

    Raises:
        UsageError: a text holds a control character, with which the next line of the batch script would begin.
    """
    for key in ("partition", "account", "qos", "constraint", "sbatch", "setup"):
        value = getattr(options, key)
        for text in [value] if value is None or isinstance(value, str) else value:
            check_place(f"hydra.launcher.{key}", text)
    wanted = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "mem": f"{round(options.mem_gb * 1024)}MB" if options.mem_gb else None,
        "cpus_per_task": options.cpus_per_task,
        "gpus_per_node": options.gpus_per_node,
    }
    return {
        **{key: value for key, value in wanted.items() if value is not None},
        "job_name": name,
        "time": options.timeout_min,
        "nodes": options.nodes,
        "ntasks_per_node": options.tasks_per_node,
        "array_parallelism": options.max_parallel or 10_000,
        "setup": list(options.setup),
        "stderr_to_stdout": True,
        "wckey": None,
        "use_srun": False,  # runs of several processes get a step each, from inside the job
        "additional_parameters": {
            "signal": f"B:USR2@{options.signal_delay_s}",
            ("requeue" if options.requeue else "no-requeue"): True,
            **dict(map(_flag, options.sbatch)),
        },
    }


def _flag(text: str) -> tuple[str, str | bool]:
    """A flag of sbatch as a name and a value, `--exclude=node7` or `hold`."""
    name, equals, value = text.lstrip("-").partition("=")
    return name, value if equals else True


def array_command(commands: Sequence[Sequence[str]]) -> str:
    """The shell line of an array's batch script. `exec`: SLURM's signals then reach the program, not a shell."""
    import shlex

    first, last = commands[0], commands[-1]
    if [*first[:-1], str(len(commands) - 1)] != list(last):
        raise ValueError("the commands of an array differ in their last word alone: the index")
    return f'exec {shlex.join(first[:-1])} "$SLURM_ARRAY_TASK_ID"'


def sbatch_error(text: str) -> str:
    """What sbatch itself said, out of submitit's report of it."""
    lines = [line for line in text.splitlines() if line.startswith("sbatch:")]
    said = [re.sub(r"^sbatch: (error: )?", "", line) for line in lines]
    return " ".join(said) or " ".join(text.split())[:300]


def parse_squeue(text: str) -> dict[Task, TaskState]:
    """The tasks in the output of `SQUEUE`. Jobs that are no arrays are not ours and are left out.

    >>> parse_squeue("17|3|PENDING|Resources|peftbench-a\\n9|N/A|RUNNING|None|other\\n")
    {('peftbench-a', 3): TaskState(state='pending', reason='Resources', job_id='17_3')}
    """
    tasks = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 4)
        if len(fields) == 5 and fields[1].isdigit():
            job, index, state, reason, name = fields
            tasks[name, int(index)] = _task_state(state, reason, f"{job}_{index}")
    return tasks


def _task_state(state: str, reason: str, job_id: str) -> TaskState:
    reason = "" if reason in ("None", "(null)") else reason
    if state in RUNNING_STATES:
        return TaskState("running", "", job_id)
    if state in PENDING_STATES:
        return TaskState("pending", reason or state, job_id)
    return TaskState("ended", " ".join(filter(None, (state, f"({reason})" if reason else ""))), job_id)


def need_submitit() -> None:
    """Raise UsageError if submitit is not installed."""
    if find_spec("submitit") is None:
        raise UsageError(
            "this launcher needs submitit: pip install 'peftbench[slurm]'. `hydra/launcher=local` does not."
        )
