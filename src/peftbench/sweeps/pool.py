"""Worker processes that do runs side by side, each keeping its backbone loaded from run to run.

A worker reads one JSON line a run from its standard input and answers with one line on a pipe of its own; what it
prints goes to a log. It leaves when its input ends, so it does not outlive the process that started it. If it dies, its
run is filed as failed and another worker takes its place. Results are in the records; an answer only says what to show.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from peftbench.config.load import from_plain
from peftbench.imports import process_is_ours
from peftbench.inputs import InputCache
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.order import WaitingJobs
from peftbench.sweeps.run_job import Ended, file_death, run_job

GRACE_SECONDS = 30.0
"""A run that is asked to stop needs time to save its checkpoint."""


@dataclass
class _Worker:
    """A process, and the run that it does."""

    place: int
    process: subprocess.Popen[str]
    answers: IO[str]
    log: Path
    job: Job | None = None
    backbone: str | None = None

    def send(self, job: Job, backbone: str) -> None:
        """Hand over a run. If the worker is dead its pipe will say so."""
        self.job, self.backbone = job, backbone
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asdict(job.config)) + "\n")  # type: ignore[arg-type]
            self.process.stdin.flush()


@dataclass
class Pool:
    """`count` workers for the runs of one sweep."""

    count: int
    logs: Path
    inputs: InputCache
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    grace: float = GRACE_SECONDS
    """Seconds from the request to stop to SIGKILL."""
    loads: int = 0
    """Backbones loaded so far, by all workers."""
    _workers: dict[int, _Worker] = field(default_factory=dict)

    @property
    def current(self) -> list[Job]:
        """What is being worked on."""
        return [worker.job for worker in list(self._workers.values()) if worker.job is not None]

    def run(self, line: WaitingJobs) -> Iterator[tuple[Job, Ended]]:
        """Do every job of `line`; each is yielded when it has ended. Left early, it stops the workers politely."""
        with selectors.DefaultSelector() as selector:
            try:
                while True:
                    self._hand_out(line, selector)
                    if not self._workers:
                        return
                    for key, _ in selector.select():
                        yield from self._answer(key.data, selector)
            finally:
                self._stop(list(self._workers.values()))
                self._workers.clear()

    def _hand_out(self, line: WaitingJobs, selector: selectors.BaseSelector) -> None:
        """Give every free place a job; a worker for whom there is none goes."""
        for place in range(self.count):
            worker = self._workers.get(place)
            if worker is not None and worker.job is not None:
                continue
            taken = line.take(worker.backbone if worker else None)
            if taken is None:
                if worker is not None:
                    self._dismiss(worker, selector)
                continue
            if worker is None:
                worker = self._workers[place] = self._start(place)
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            worker.send(*taken)

    def _answer(self, worker: _Worker, selector: selectors.BaseSelector) -> Iterator[tuple[Job, Ended]]:
        """One line from a worker, or its death."""
        text, job = worker.answers.readline(), worker.job
        if text.endswith("\n"):
            told = json.loads(text)
            self.loads += told.pop("loads")
            worker.job = None
            if job is not None:
                yield job, Ended(**told)
            return
        self._dismiss(worker, selector)
        if job is not None:
            yield job, self._died(worker, job)

    def _died(self, worker: _Worker, job: Job) -> Ended:
        """A worker is gone with a run in its hands."""
        code = worker.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        reason = f"its process ended before it filed a record ({how})"
        assert job.config is not None
        file_death(job.config, self.inputs, reason, log=str(worker.log))
        return Ended("failed", reason)

    def _start(self, place: int) -> _Worker:
        """A new process in a session of its own, so that Ctrl-C reaches it through us alone."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"worker-{place}.log"
        read, write = os.pipe()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "peftbench.sweeps.pool", str(write)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(write,),
                env={**self.environ, **share(self.environ, place, self.count)},
                start_new_session=True,
                text=True,
            )
        os.close(write)
        return _Worker(place, process, os.fdopen(read, encoding="utf-8"), log)

    def _dismiss(self, worker: _Worker, selector: selectors.BaseSelector) -> None:
        """See a worker out that has nothing to do or is dead."""
        selector.unregister(worker.answers)
        del self._workers[worker.place]
        self._stop([worker], politely=False)

    def _stop(self, workers: Sequence[_Worker], politely: bool = True) -> None:
        """End processes: by a signal if they are at work, by the end of their input else."""
        for worker in workers:
            if politely and worker.job is not None:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(signal.SIGTERM)
            with suppress(OSError):
                worker.process.stdin.close()  # type: ignore[union-attr]
        deadline = time.monotonic() + self.grace
        for worker in workers:
            try:
                worker.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.answers.close()


def share(environ: Mapping[str, str], place: int, count: int) -> dict[str, str]:
    """What one of `count` workers gets of the machine: a GPU if there are any, and its part of the cores.

    A worker that is alone has all GPUs, for runs with `trainer.devices`.
    """
    own: dict[str, str] = {}
    devices = gpus(environ) if count > 1 else []
    if devices:
        own["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    if "OMP_NUM_THREADS" not in environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        own["OMP_NUM_THREADS"] = str(max(1, cores // count))
    return own


def gpus(environ: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES knows. Asks the driver, not torch."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [name.strip() for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, _ in enumerate(line for line in asked.stdout.splitlines() if line.startswith("GPU "))]


def work(answers: IO[str]) -> int:
    """The worker: do what comes in on standard input until it ends."""
    from peftbench.models.backbone_cache import keep_loaded
    from peftbench.records.leaderboard import rebuilt_sparingly

    lines, busy = _lines()
    inputs = InputCache()
    with keep_loaded() as cache, rebuilt_sparingly():
        while (text := lines.get()) is not None:
            before = cache.loads
            ended = run_job(from_plain(json.loads(text)), inputs)
            busy.clear()
            print(json.dumps({**asdict(ended), "loads": cache.loads - before}), file=answers, flush=True)
    return 0


def _lines() -> tuple[queue.Queue[str | None], threading.Event]:
    """Standard input, line by line, then None; its end in the middle of a run is the parent's death, and ours."""
    lines: queue.Queue[str | None] = queue.Queue()
    busy = threading.Event()

    def read() -> None:
        for text in sys.stdin:
            busy.set()
            lines.put(text)
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        lines.put(None)

    threading.Thread(target=read, name="runs", daemon=True).start()
    return lines, busy


def _stop(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)  # where nothing has begun, nothing is to be saved
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process_is_ours()
    try:
        with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:
            sys.exit(work(pipe))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)
