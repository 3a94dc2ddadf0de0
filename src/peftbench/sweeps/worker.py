"""The program of one task of an array job: `python -m peftbench.sweeps.worker TASKS.jsonl INDEX`.

It stays small (no torch) and lets children work: one for all runs of the task, so that their backbone stays loaded, or
`srun` for each run that several processes train together. So a child that is killed takes its own run along and no
other, and when the time is up somebody is there to put the job back into the queue.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from peftbench.attempt import STOP_SIGNALS
from peftbench.config.load import from_plain
from peftbench.errors import Interrupted, UsageError
from peftbench.results.store import Store
from peftbench.sweeps.arrays import ArrayOptions, ArrayTask, TaskRun, read_task
from peftbench.training.launch import LEASH

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.inputs import InputCache

DONE, FAILED, USAGE, CUT = 0, 1, 2, 130
SETTLED = ("done", "failed", "diverged")
LOCAL_REQUEUE = 144
"""What submitit's local controller takes for "start me again"."""
SAVING_SHARE = 0.7
"""Of the time between signal and limit, what children have for their checkpoints before the job is requeued anyway."""


class Supervisor:
    """Runs children until the task's runs are settled or its time is up."""

    def __init__(self, task: ArrayTask, folder: Path) -> None:
        """`folder`: a shared one, for what the children read."""
        self.task, self.options, self.folder = task, task.options, folder
        self.store = Store(task.runs[0].config["out_dir"])
        self.signal: int | None = None
        """SIGUSR2: the time is nearly up. SIGTERM: cancelled or preempted, the queue decides on the job."""
        self.child: subprocess.Popen[bytes] | None = None
        self.deadline = float("inf")
        self.left: set[str] = set()
        """Runs that were tried and are not tried again here, whatever their records say."""

    def work(self) -> int:
        """All runs of the task; the exit code."""
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        failed = False
        while self.signal is None and (runs := self.open_runs()):
            batch = runs if self.options.processes == 1 else runs[:1]
            code, last = self._child(batch)
            if self.signal is not None:
                break
            self.left |= {run.run_id for run in batch[: batch.index(last) + 1]}
            if code not in (DONE, FAILED, USAGE):
                self._file_death(last, code)
            failed = failed or code != DONE
            if failed and self.options.on_failure == "stop":
                break
        if self.signal is None:
            return FAILED if failed else DONE
        return self._leave()

    def open_runs(self) -> list[TaskRun]:
        """What is still to be done, in order."""
        return [run for run in self.task.runs if run.run_id not in self.left and not self._is_settled(run)]

    def _is_settled(self, run: TaskRun) -> bool:
        record = self.store.load(run.run_id)
        if record is None:
            return False
        if record.created == run.earlier:  # of a time before this job
            return record.status == "done" and not run.config["rerun"]
        return record.status in SETTLED

    def _child(self, runs: Sequence[TaskRun]) -> tuple[int, TaskRun]:
        """Let a child do `runs`; its exit code (negative: killed by that signal) and the last run that it began."""
        with tempfile.TemporaryDirectory(prefix=".job-", dir=self.folder) as home:
            plain = [{**run.config, "rerun": self._from_scratch(run)} for run in runs]
            configs = Path(home) / "configs.json"
            configs.write_text(json.dumps(plain if self.options.processes == 1 else plain[0]), encoding="utf-8")
            begun = Path(home) / "begun"
            command = [sys.executable, "-u", "-m", __spec__.name, "--here", str(configs), str(begun)]
            command += [self.options.on_failure]
            if self.options.processes > 1:
                command = [*srun(self.options), sys.executable, "-u", "-m", "peftbench.training.worker", str(configs)]
            self.child = subprocess.Popen(command, stdin=subprocess.PIPE, env=child_environment(self.options))
            if self.signal is not None:  # it came before there was anybody to pass it on to
                self.child.send_signal(self.signal)
            code = self._wait(self.child)
            count = len(begun.read_text().split()) if begun.exists() else 1
        return code, runs[max(1, count) - 1]

    def _from_scratch(self, run: TaskRun) -> bool:
        """`rerun=true` counts once: what this job itself began is resumed after a time limit."""
        record = self.store.load(run.run_id)
        return run.config["rerun"] and (record is None or record.created == run.earlier)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        while child.poll() is None and time.monotonic() < self.deadline:
            time.sleep(0.1)
        return CUT if child.returncode is None else child.returncode

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Pass the signal on; from SIGUSR2 on the clock runs. (One that comes twice, from SLURM too, does no harm.)"""
        if number == signal.SIGUSR2:
            self.deadline = min(self.deadline, time.monotonic() + SAVING_SHARE * self.options.signal_delay_s)
        self.signal = self.signal or number
        if self.child is not None:
            with suppress(ProcessLookupError):
                self.child.send_signal(number)

    def _leave(self) -> int:
        """After a signal: back into the queue if the time was up, else whatever the queue wants."""
        restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        if self.signal != signal.SIGUSR2 or not self.open_runs():
            return CUT
        if not self.options.requeue or restarts >= self.options.max_requeue:
            print(f"peftbench: the time is up; not queued again (restart {restarts})", file=sys.stderr)
            return CUT
        job = os.environ.get("SLURM_JOB_ID")
        if job is None:
            return LOCAL_REQUEUE
        print(f"peftbench: the time is up; job {job} goes back into the queue", file=sys.stderr, flush=True)
        subprocess.run(["scontrol", "requeue", job], check=False)
        return CUT

    def _file_death(self, run: TaskRun, code: int) -> None:
        """A record in the name of a run whose process died without a word, so that its end is not hidden."""
        from peftbench.inputs import InputCache
        from peftbench.results.leaderboard import rebuild
        from peftbench.session import base_record

        record = self.store.load(run.run_id)
        if record is not None and record.created != run.earlier:
            return  # it had its word
        with suppress(UsageError):  # its data is gone, or another process has taken it over by now
            data, drawn, name = InputCache().load(from_plain(run.config))
            record = base_record(from_plain(run.config), data, drawn, name)
            fate = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = ", perhaps by the system for want of memory" if code == -signal.SIGKILL else ""
            record.reason = f"its process {fate}{hint}{_log()}"
            with self.store.claim(name):
                self.store.save(record)
            rebuild(self.store)


def _log() -> str:
    """The file that this process's output goes to, as reasons name it."""
    with suppress(OSError):
        path = os.readlink("/proc/self/fd/2")
        if os.path.isfile(path):
            return f" (log: {path})"
    return ""


def child_environment(options: ArrayOptions) -> dict[str, str]:
    """This process's, with a thread for each core that a process was given: without cgroups torch would take all."""
    cores = (
        os.environ.get("SLURM_CPUS_PER_TASK") or int(os.environ.get("SLURM_CPUS_ON_NODE", 0)) // options.tasks_per_node
    )
    threads = {"OMP_NUM_THREADS": str(cores)} if cores and "OMP_NUM_THREADS" not in os.environ else {}
    return {**os.environ, **threads, LEASH: "1"}


def srun(options: ArrayOptions) -> list[str]:
    """One step of all tasks of the job; the first process to fail ends it."""
    command = ["srun", "--unbuffered", "--kill-on-bad-exit=1", f"--nodes={options.nodes}"]
    command += [f"--ntasks={options.processes}", f"--ntasks-per-node={options.tasks_per_node}"]
    return command + ([f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else [])


def run_here(configs: Path, begun: Path, on_failure: str) -> int:
    """The runs of a file one after the other in this process; `begun` gets a line as each begins."""
    from peftbench.inputs import InputCache
    from peftbench.models.kept import keep_loaded
    from peftbench.training.worker import hold_leash

    hold_leash()
    for number in STOP_SIGNALS:  # between two runs nothing is to be saved; within one the run sees to it
        signal.signal(number, _interrupt)
    inputs, codes = InputCache(), [DONE]
    with keep_loaded():
        for plain in json.loads(configs.read_text(encoding="utf-8")):
            with begun.open("a", encoding="utf-8") as file:
                file.write("begun\n")
            codes.append(_run_one(from_plain(plain), inputs))
            if codes[-1] != DONE and on_failure == "stop":
                break
    return max(codes)


def _run_one(config: RunConfig, inputs: InputCache) -> int:
    """One run and its summary; whatever is wrong with it stays its own affair."""
    from peftbench.results.summary import print_summary
    from peftbench.run import run

    try:
        record, is_new = run(config, inputs)
    except UsageError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        return FAILED
    except Exception:  # it could not even file a record: the traceback stays in the log
        traceback.print_exc()
        return FAILED
    assert record is not None, "a run in one process has its record"
    print_summary(record, config.out_dir, is_new)
    return DONE if record.status == "done" else FAILED


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def main(argv: list[str]) -> int:
    """The task that `argv` names, or (`--here`) the work of its child."""
    try:
        if argv[0] == "--here":
            return run_here(Path(argv[1]), Path(argv[2]), argv[3])
        tasks = Path(argv[0])
        return Supervisor(read_task(tasks, int(argv[1])), tasks.parent).work()
    except KeyboardInterrupt:
        return CUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
