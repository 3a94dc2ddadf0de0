"""Processes: which world this one stands in, and starting a world on this machine. Free of torch.

The launcher starts one worker a device with the variables that `torchrun` would set, and watches them: the first
worker to fail ends all, its exit code is the launcher's, and only rank 0 writes to the terminal. (torchrun itself
turns every exit code into 1, prints its own traceback after ours, and imports torch once more.)
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from peftbench.attempt import STOP_SIGNALS
from peftbench.errors import UsageError

RENDEZVOUS = "PEFTBENCH_RENDEZVOUS"
"""Set for the workers of one machine: the file where they meet. A port that was free may be taken a moment later."""
LEASH = "PEFTBENCH_LEASH"
"""Set for a worker whose standard input is a pipe from its launcher: the end of that pipe is the launcher's death."""

WORKER = "peftbench.ddp_worker"
LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.1
NAME_SECONDS = 5.0
"""How long a name server may be out of reach before a node's name counts as unknown."""
SETTLE_SECONDS = 2.0
"""How long the others may take to fail of the same cause (a wrong config) before they are told to stop."""
GRACE_SECONDS = 15.0
"""From the polite signal to SIGKILL."""
SAVING_SECONDS = 120.0
"""How long the workers may take to end the step, save a checkpoint and file a record when the run was told to stop."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that train together."""

    rank: int
    world: int
    local_rank: int
    address: str
    port: int
    rendezvous: str = ""
    """The file where the processes meet, instead of address and port."""


@dataclass(frozen=True)
class Outcome:
    """How the workers ended.

    Attributes:
        code: exit code for the whole.
        reason: which of them failed first and how, in words.
        killed: whether that one was killed, so that what the others say is but what they suffered from it.
        signal: the stop signal that the launcher was sent and passed on.
    """

    code: int
    reason: str = ""
    killed: bool = False
    signal: int | None = None


def find_place(environ: Mapping[str, str]) -> Place | None:
    """The place that torchrun (or `launch`) or srun gave this process, or None when it is alone.

    Under srun only the *step* counts: a batch script outside of any step sees the job's number of tasks too, but it
    is one process and waiting for the others would last for ever.
    """
    if {"RANK", "WORLD_SIZE"} <= environ.keys() and (RENDEZVOUS in environ or "MASTER_PORT" in environ):
        rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        address, port = environ.get("MASTER_ADDR", LOOPBACK), int(environ.get("MASTER_PORT", 0))
        local_rank = int(environ.get("LOCAL_RANK", rank))
        return Place(rank, world, local_rank, address, port, environ.get(RENDEZVOUS, "")) if world > 1 else None
    if "SLURM_STEP_ID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
        return Place(
            rank=int(environ["SLURM_PROCID"]),
            world=int(environ["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environ["SLURM_LOCALID"]),
            address=meeting_address(environ, nodes, alone=environ.get("SLURM_STEP_NUM_NODES") == "1"),
            port=int(environ.get("MASTER_PORT") or slurm_port(environ["SLURM_JOB_ID"], environ["SLURM_STEP_ID"])),
        )
    return None


def meeting_address(environ: Mapping[str, str], nodes: str, alone: bool) -> str:
    """Where the processes of a step on `nodes` meet; on one node (`alone`) that needs no name."""
    return environ.get("MASTER_ADDR") or (LOOPBACK if alone else first_host(nodes))


def check_place(place: Place) -> None:
    """Make sure that this node knows the address where the processes meet, before anything is loaded.

    Raises:
        UsageError: it does not; nodes have names of their own each, so the first process of each says it.
        SystemExit: the others of a node leave with the same exit code.
    """
    if place.rendezvous:
        return
    try:
        check_address(place.address)
    except UsageError:
        if place.local_rank:
            raise SystemExit(2) from None
        raise


def check_address(address: str) -> None:
    """Make sure that a node's name or number means something here. torch would look for it for minutes, in silence.

    Raises:
        UsageError: it does not.
    """
    deadline = time.monotonic() + NAME_SECONDS
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except (socket.gaierror, UnicodeError) as error:  # the latter for what no name can be (`a..b`)
            again = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            if not again or time.monotonic() > deadline:
                here = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
                raise UsageError(
                    f"the node `{address}`, where the processes are to meet, cannot be found from `{here}` "
                    f"({getattr(error, 'strerror', None) or error}). Add it to /etc/hosts on every node, or set "
                    "MASTER_ADDR to an address of it that all nodes know."
                ) from None
        time.sleep(POLL_SECONDS)


def first_host(nodes: str) -> str:
    """The first host of SLURM's compressed list.

    >>> first_host("gpu[07-09,12],login"), first_host("rack[1-2]n[03,05]"), first_host("box")
    ('gpu07', 'rack1n03', 'box')
    """
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])+", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first.group()) if first else nodes


def slurm_port(job_id: str, step_id: str) -> int:
    """A port that every rank of a step computes alike and that steps running side by side do not share."""
    return 20000 + (int(job_id) * 7 + int(step_id)) % 20000


def launch(config_path: Path, devices: int, worker: str | None = None) -> Outcome:
    """Run `python -m peftbench.ddp_worker CONFIG_PATH` in `devices` processes and wait for their end.

    `worker` is another module to run in its place.

    The exit code is 0 when all ended well; else that of rank 0 if it failed by itself, or of the rank to blame. Stop
    signals are passed on; the workers then get `SAVING_SECONDS` to leave in good order. They leave as well when this
    process is killed.
    """
    workers: list[_Worker] = []
    with (
        tempfile.TemporaryDirectory(prefix="peftbench-ranks-") as folder,
        _signals_to(workers) as caught,  # before there is a worker: none may be left behind
        _started(workers, [worker or WORKER, str(config_path)], devices, folder, caught),
    ):
        failed = _watch(workers, caught)
        if failed is None:
            return Outcome(0)
        if caught:
            return Outcome(128 + caught[0], signal=caught[0])
        main_code = workers[0].process.returncode
        if failed.rank != 0 and not (failed.code == main_code == 2):
            sys.stderr.write(failed.last_words())
        code = main_code if main_code > 0 else failed.code
        return Outcome(code if code > 0 else 128 - code, failed.fate(), killed=failed.code < 0)


@dataclass
class _Worker:
    rank: int
    process: subprocess.Popen
    log: IO[str] | None
    code: int = field(default=0, init=False)
    """The exit code it chose itself; 0 while it runs or when it was stopped by us."""

    def last_words(self, lines: int = 40) -> str:
        """What a rank other than 0 wrote; rank 0 wrote to the terminal itself."""
        if self.log is None:
            return ""
        self.log.seek(0)
        tail = self.log.readlines()[-lines:]
        return f"{self.fate()}:\n" + "".join(tail)

    def fate(self) -> str:
        """How it ended, in words."""
        if self.code >= 0:
            return f"rank {self.rank} ended with exit code {self.code}"
        hint = ", perhaps by the system for want of memory" if self.code == -signal.SIGKILL else ""
        return f"rank {self.rank} was killed by {signal.Signals(-self.code).name}{hint}"


@contextmanager
def _started(
    workers: list[_Worker], program: list[str], count: int, folder: str, caught: Sequence[int]
) -> Iterator[None]:
    """Fills `workers`, all of them gone on exit. Each is in a session of its own: signals come from us alone, those
    too that were `caught` before it was there."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    common = {"WORLD_SIZE": str(count), RENDEZVOUS: str(Path(folder) / "rendezvous")}
    common |= {"OMP_NUM_THREADS": threads, LEASH: "1"}
    command = [sys.executable, "-m", *program]
    try:
        for rank in range(count):
            log = open(Path(folder) / f"rank{rank}.log", "w+", errors="replace") if rank else None  # noqa: SIM115
            environ = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            workers.append(_Worker(rank, process, log))
            for number in caught:
                process.send_signal(number)
        yield
    finally:
        _stop(workers, signal.SIGTERM)
        for worker in workers:
            if worker.process.stdin:
                worker.process.stdin.close()
            if worker.log:
                worker.log.close()


@contextmanager
def _signals_to(workers: list[_Worker]) -> Iterator[list[int]]:
    """Pass stop signals on to the workers; the list holds those that came."""
    caught: list[int] = []

    def forward(number: int, _frame: object) -> None:
        caught.append(number)
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    try:
        before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread: whoever is there handles signals
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(workers: list[_Worker], caught: list[int]) -> _Worker | None:
    """Wait for the end of all; return the one to blame if not all ended well. Stops the others soon after a failure."""
    deadline = float("inf")
    while running := [w for w in workers if w.process.poll() is None]:
        for worker in workers:
            worker.code = worker.process.returncode or 0
        if caught:
            deadline = min(deadline, time.monotonic() + (SAVING_SECONDS if len(caught) == 1 else GRACE_SECONDS))
        elif _to_blame(workers):
            deadline = min(deadline, time.monotonic() + SETTLE_SECONDS)
        if time.monotonic() > deadline:
            failed = _to_blame(workers) or running[0]
            _stop(running, signal.SIGTERM)
            return failed
        time.sleep(POLL_SECONDS)
    for worker in workers:
        worker.code = worker.process.returncode or 0
    return _to_blame(workers)


def _to_blame(workers: list[_Worker]) -> _Worker | None:
    """One that was killed rather than one that failed, perhaps of missing the other."""
    failed = [w for w in workers if w.code]
    return min(failed, key=lambda w: (w.code > 0, w.rank), default=None)


def _stop(workers: list[_Worker], number: int) -> None:
    """Ask those that still run to leave, and kill what has not left after the time of grace."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(number)
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        try:
            worker.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
