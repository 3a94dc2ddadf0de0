"""A queue for tests where there is no cluster: the jobs of the slurm launcher as processes of this machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peftbench.sweeps.arrays import ArrayOptions
from peftbench.sweeps.queues import Task, TaskState


class LocalQueue:
    """submitit's local controllers: processes of this machine with a time limit and its signal.

    Tasks start in order, at most `max_parallel` at a time, and only while somebody asks for their `states`.
    """

    outlives_us = False

    def __init__(self) -> None:
        self._waiting: list[tuple[Task, Sequence[str], Path, ArrayOptions]] = []
        self._started: dict[Task, Any] = {}

    def submit(self, name: str, commands: Sequence[Sequence[str]], logs: Path, options: ArrayOptions) -> str:
        """Put the tasks in line; the "job id" is the name."""
        self._waiting += [((name, index), command, logs, options) for index, command in enumerate(commands)]
        return name

    def states(self) -> dict[Task, TaskState]:
        """Start what may start, then say how all are."""
        while self._waiting and self._running() < (self._waiting[0][3].max_parallel or os.cpu_count() or 1):
            task, command, logs, options = self._waiting.pop(0)
            self._started[task] = self._start(command, logs, options)
        states = {task: TaskState("pending", "max_parallel") for task, *_ in self._waiting}
        for task, job in self._started.items():
            code = job._process.poll()
            ended = "" if code is None else f"exit code {code}"
            states[task] = TaskState("ended" if ended else "running", ended, job.job_id)
        return states

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Forget what waits; ask what runs to leave."""
        names = set(job_ids)
        self._waiting = [entry for entry in self._waiting if entry[0][0] not in names]
        for (name, _), job in self._started.items():
            if name in names and job._process.poll() is None:
                job._process.terminate()
                job._process.wait()

    def _running(self) -> int:
        return sum(job._process.poll() is None for job in self._started.values())

    @staticmethod
    def _start(command: Sequence[str], logs: Path, options: ArrayOptions) -> Any:
        from submitit.local.local import LocalExecutor

        executor = LocalExecutor(logs)
        executor.update_parameters(
            timeout_min=options.timeout_min,
            signal_delay_s=options.signal_delay_s,
            gpus_per_node=options.gpus_per_node or 0,
            stderr_to_stdout=True,
            setup=list(options.setup),
        )
        return executor._submit_command(shlex.join(command))
