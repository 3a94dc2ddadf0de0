"""Claims: who works on which run. Leases in a shared folder, for any number of processes on any number of machines.

A claim is a file `claims/<run_id>.<token>.json` under a random token, so its name is never used twice and nobody but
its owner and whoever takes it over touches it. The owner renews its time stamp (the heartbeat). Two never own a run:

- Whoever wants it puts its own file there *first* and looks for others *then*. Of two who do so at the same time at
  least one sees the other, and gives way.
- A claim is dead when its process on this machine is gone, or when its last beat is older than the lease. Ages are
  differences between two stamps that the file system itself gave, so hosts' clocks do not matter.
- An owner whose own beats were further apart than the lease (a suspended laptop) looks whether another took over; it
  has lost its claim then, and `Lease.check`, which comes before every write that matters, says so.

Nothing is asked of the file system but that a new file is seen by a listing that starts later: no locks, which on a
network file system may be missing or may not reach other nodes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from peftbench.errors import UsageError
from peftbench.files import NotAFile, persist, read_file, write_atomic
from peftbench.json_types import check

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""A claim without a sign of life for so long may be taken over by another machine."""
BEATS = 4
"""Heartbeats in a lease."""
LAPSED = 0.9
"""Share of the lease after which an owner looks whether it still is one: before anybody else could think it dead."""
SETTLE_SECONDS = 1.0
"""How long one of two who claim at the same time waits for the other to give way."""

UNKNOWN = "unknown"

_NAME = re.compile(r"(?P<run_id>[0-9A-Za-z][0-9A-Za-z_-]*)\.(?P<token>[0-9a-f]{16})\.json")


class ClaimFacts(TypedDict, total=False):
    """What a claim file holds."""

    host: str
    pid: int
    since: str
    machine: str | None
    started: str | None
    slurm_job: str | None


class LeaseHeld(UsageError):
    """Another process works on this run."""


class LeaseLost(LeaseHeld):
    """This process was out of reach for longer than the lease, and another has taken its run over."""


@dataclass(frozen=True)
class Holder:
    """Who works on a run, or did until it died.

    Attributes:
        since: UTC, ISO 8601.
        beat_age: seconds since its last sign of life, by the clock of the file system.
        alive: False if its claim may be taken over.
        slurm_job: id of the SLURM job, if it runs in one.
    """

    host: str
    pid: int
    since: str
    beat_age: float
    alive: bool
    slurm_job: str | None = None

    def __str__(self) -> str:
        job = f" (SLURM job {self.slurm_job})" if self.slurm_job else ""
        return f"process {self.pid} on host {self.host}{job} since {self.since}"


class Lease:
    """This process's claim on a run, renewed by a thread until `release`."""

    def __init__(self, folder: Path, run_id: str) -> None:
        """Lease the run.

        Raises:
            LeaseHeld: another process holds it.
            UsageError: the folder cannot be written.
        """
        self._folder, self._run_id = folder, run_id
        self._await_predecessor()
        self.path = folder / f"{run_id}.{secrets.token_hex(8)}.json"
        self._process, self._lost, self._guard, self._over = os.getpid(), False, threading.Lock(), threading.Event()
        self._write()
        try:
            self._win()
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        threading.Thread(target=self._beat_on, name="claim-heartbeat", daemon=True).start()

    def check(self) -> None:
        """Make sure that the run is still this process's: to be called before each write that another would mind.

        Raises:
            LeaseLost: it is not.
        """
        persist(self._beat)
        if self._lost:
            raise LeaseLost(
                f"Run {self._run_id}: this process was suspended or cut off from `{self._folder}` for more than "
                f"{LEASE_SECONDS:.0f} s and another one has taken the run over. Nothing more was written; the same "
                "command reports the other's result once it is there."
            )

    def release(self) -> None:
        """Give the run back; a process that was forked from the owner has nothing to give."""
        self._over.set()
        if os.getpid() == self._process:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _win(self) -> None:
        """Look at the others now that this claim can be seen; the lower token of two who come together stays."""
        deadline = time.monotonic() + SETTLE_SECONDS
        others = self._others()
        while living := [other for other in others if other.holder.alive]:
            if living[0].path.name < self.path.name or time.monotonic() > deadline:
                self._refuse(living)
            time.sleep(0.02)
            others = self._others()
        for dead in others:  # of this listing: whoever came since has found this claim alive, and gives way
            log.info("Run %s was left by %s and is taken over.", self._run_id, dead.holder)
            with suppress(OSError):  # another user's: it stays, and stays dead
                dead.path.unlink(missing_ok=True)

    def _await_predecessor(self) -> None:
        """Give way to whoever is at work, but see the lease out of this very SLURM job before it was requeued."""
        restarted = os.environ.get("SLURM_JOB_ID") if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else None
        deadline = time.monotonic() + 2 * LEASE_SECONDS
        while living := [other for other in self._others() if other.holder.alive]:
            if not restarted or living[0].holder.slurm_job != restarted or time.monotonic() > deadline:
                self._refuse(living)
            time.sleep(LEASE_SECONDS / 60)

    def _refuse(self, living: list[Found]) -> None:
        raise LeaseHeld(f"Run {self._run_id} is being worked on by {living[0].holder}. Wait for it, or end it.")

    def _others(self) -> list[Found]:
        mine = getattr(self, "path", None)
        return [found for found in scan(self._folder, self._run_id, stamp=mine) if found.path != mine]

    def _write(self) -> None:
        write_atomic(self.path, json.dumps(_myself()).encode(), durable=False)
        self._last = _elapsed()

    def _beat(self) -> None:
        """A sign of life. After a gap in which others may have thought this process dead, look for them."""
        with self._guard:
            if self._lost:
                return
            try:
                before = _stamp(self.path)
                os.utime(self.path)
                lapsed = abs(_stamp(self.path) - before) > LAPSED * LEASE_SECONDS
                self._last = _elapsed()
            except FileNotFoundError:
                if _elapsed() - self._last > LAPSED * LEASE_SECONDS:
                    self._lost = True  # whoever took the run over removed the claim
                    return
                # nobody can have thought this process dead: somebody removed the claim, or the whole folder, by hand
                log.warning("The claim %s was removed under a run that is at work; it is made again.", self.path)
                self._write()
                lapsed = True
            if lapsed and any(other.holder.alive for other in self._others()):
                self._lost = True

    def _beat_on(self) -> None:
        while not self._over.wait(LEASE_SECONDS / BEATS):
            try:
                self._beat()
            except (
                OSError,
                UsageError,
            ) as error:  # the file system is out of reach: `check` will see whether that cost the claim
                log.warning("The claim on run %s could not be renewed: %s", self._run_id, error)


@dataclass(frozen=True)
class Found:
    """A claim file and who it belongs to."""

    path: Path
    run_id: str
    holder: Holder


def scan(folder: Path, run_id: str | None = None, stamp: Path | None = None) -> list[Found]:
    """The claims in `folder` (on one run), by name.

    Args:
        stamp: a file of this process whose time stamp can be renewed to learn what time it is on the file system.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = [m for m in map(_NAME.fullmatch, names) if m and run_id in (None, m["run_id"])]
    # The time first, the beats then: a beat that comes in between makes its claim younger, never older.
    now = time_on(folder, stamp) if matches else 0.0
    found = (_read(folder / m[0], m["run_id"], now) for m in matches)
    return [claim for claim in found if claim is not None]


def _read(path: Path, run_id: str, now: float) -> Found | None:
    """A claim as it is now; None if it has just been given back, or is no file and so nobody's."""
    try:
        age = abs(now - _stamp(path))  # a beat in the future (a clock that was set back) is as old as it is far off
        content = read_file(path)
    except (FileNotFoundError, NotAFile):
        return None
    try:
        who = json.loads(content)
        check(who, ClaimFacts, "claim")
        holder = Holder(who["host"], who["pid"], who["since"], age, _lives(who, age), who.get("slurm_job"))
    except (ValueError, KeyError, RecursionError):  # damaged on the disk: only its beat can say if somebody is there
        holder = Holder(UNKNOWN, 0, UNKNOWN, age, age <= LEASE_SECONDS)
    return Found(path, run_id, holder)


def _lives(who: dict[str, Any], beat_age: float) -> bool:
    """Whether the owner can still be at work. On its own machine that is known, elsewhere its heartbeat tells."""
    if who.get("machine") != machine():
        return beat_age <= LEASE_SECONDS
    started = process_start(who["pid"])
    return started is not None and (started == who.get("started") or UNKNOWN in (started, who.get("started")))


def time_on(folder: Path, stamp: Path | None = None) -> float:
    """The time by the clock that stamps files in `folder`; by this host's where nothing can be written."""
    try:
        if stamp is not None:
            os.utime(stamp)
            return _stamp(stamp)
        probe = folder / f".clock.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        probe.touch(exist_ok=False)
        try:
            return _stamp(probe)
        finally:
            probe.unlink(missing_ok=True)
    except OSError:
        return time.time()


def _stamp(path: Path) -> float:
    """Time of the last change. A network file system is asked anew when a file is opened, not when it is stat'ed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would wait for a writer
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "started": process_start(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _elapsed() -> float:
    """Seconds of a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


@cache
def machine() -> str:
    """What must be equal for two process ids to mean the same: host, its boot, and the namespace of process ids."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """A stamp of when the process `pid` of this machine began; None if there is none (a zombie is none)."""
    if pid <= 0:
        return None  # to kill(2) these are groups
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # proc(5): 22nd field, the third being the first here
    except (OSError, IndexError):
        try:  # no /proc (macOS), or it hides other users' processes
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):  # or a number that no process can have
            return None
        except OSError:
            pass  # it is there and is not ours
        return UNKNOWN
