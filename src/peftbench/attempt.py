"""One attempt at a run, from its start or resumption to its end. Free of torch.

A run that is killed, told to stop or cut off by a time limit takes several attempts. This is what they share: how one
is told to stop, what it has cost together with those before it, and what others may see of it while it lasts.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypedDict

from peftbench.errors import Interrupted, UsageError
from peftbench.files import write_atomic
from peftbench.measure.clock import PhaseClock
from peftbench.measure.memory import MemoryMeter

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, a polite kill, and what clusters send some time before a time limit (`sbatch --signal`)."""
PROGRESS_SECONDS = 2.0
ATTEMPTS, PROGRESS = "attempts.json", "progress.json"
"""In a run's folder until it is done: how many attempts there were; where the present one is."""


class ClockFacts(TypedDict):
    """`PhaseClock.account()`."""

    wall: dict[str, float]
    cpu: dict[str, float]
    sections: dict[str, dict[str, dict[str, float]]]


class AccountFacts(TypedDict):
    """`Attempt.account()`."""

    clock: ClockFacts
    peaks: dict[str, float]
    section_peaks: dict[str, dict[str, float]]


class Attempt:
    """Attributes:
    received: the stop signal that came while the work was not to be cut short, or None.
    progress: what `peftbench status` shows of the run.
    """

    def __init__(
        self,
        clock: PhaseClock | None = None,
        meter: MemoryMeter | None = None,
        check: Callable[[], None] = lambda: None,
        progress: ProgressFile | None = None,
    ) -> None:
        """`check` raises if the run is not this process's any more."""
        self.clock, self.meter, self.check = clock or PhaseClock(), meter, check
        self.progress = progress or ProgressFile(None)
        self.received: int | None = None
        self._holds = 0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Be told to stop by `STOP_SIGNALS` for the time of the block. One that is ignored (`nohup`) stays ignored.
        No signal arrives outside the main thread: there it is `pass_on` that tells."""
        before: dict[int, Any] = {}
        heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._stop) for number in heard}
        else:
            _in_threads[self] = threading.get_ident()
        try:
            yield
        finally:
            _in_threads.pop(self, None)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number != signal.SIGINT:
            return  # it is ending already; only a second Ctrl-C is more urgent
        again, self.received = self.received is not None, self.received or number
        if again or not self._holds:
            raise Interrupted(number, self.progress.where())
        if self.progress.path is not None:
            words = f"peftbench: {signal.Signals(number).name}: ending after this step (Ctrl-C ends at once)\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, words.encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Do not cut the block short: it looks at `received` itself, and what came too late for it is raised behind it.

        Raises:
            Interrupted: the block went to its end, and a signal had come.
        """
        before = self.received
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if not self._holds and self.received != before:
            self.end()

    def end(self) -> NoReturn:
        """Stop here: a signal has come, to this process of the run or to another."""
        raise Interrupted(self.received or signal.SIGTERM, self.progress.where())

    def account(self) -> dict[str, Any]:
        """What the run has cost so far, as plain data for a checkpoint."""
        peaks, sections = (self.meter.peaks(), self.meter.sections()) if self.meter else ({}, {})
        return {"clock": self.clock.account(), "peaks": peaks, "section_peaks": sections}

    def resume(self, account: dict[str, Any]) -> None:
        """Go on from the `account` in a checkpoint of an earlier attempt."""
        self.clock.resume(account["clock"])
        if self.meter:
            self.meter.resume(account["peaks"], account["section_peaks"])


_in_threads: dict[Attempt, int] = {}
"""Attempts outside the main thread, each with its thread."""


def pass_on(number: int) -> None:
    """Tell the attempts outside the main thread that a stop signal came. One whose work may be cut short ends at once,
    as it would in the main thread; the others look at `received`."""
    for attempt, thread in list(_in_threads.items()):
        first, attempt.received = attempt.received is None, attempt.received or number
        if first and not attempt._holds:
            _interrupt(thread, number, attempt.progress.where())


def _interrupt(thread: int, number: int, where: str) -> None:
    """Raise `Interrupted` in another thread, as a signal's handler does in the main one."""

    class Told(Interrupted):
        def __init__(self) -> None:
            super().__init__(number, where)

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Told))


class ProgressFile:
    """`progress.json` in a run's folder: where the run is, for other processes to read. Nothing depends on it."""

    def __init__(self, path: Path | None) -> None:
        """`path` None keeps quiet: the other ranks."""
        self.path = path
        self._facts: dict[str, Any] = {}
        self._written = -PROGRESS_SECONDS

    def show(self, phase: str | None = None, **facts: Any) -> None:
        """Note `stage`, `step`, `steps`, `loss`; written when a `phase` begins and else every `PROGRESS_SECONDS`."""
        self._facts |= facts if phase is None else {"phase": phase, **facts}
        now = time.monotonic()
        if self.path is None or (phase is None and now - self._written < PROGRESS_SECONDS):
            return
        self._written = now
        try:
            facts = {**self._facts, "updated": datetime.now(timezone.utc).isoformat(timespec="seconds")}
            write_atomic(self.path, json.dumps(facts).encode(), durable=False)
        except UsageError as error:  # a full disk ends a run when something is lost by it, and here nothing is
            log.warning("%s", error)
            self.path = None

    def where(self) -> str:
        """In words, for the reason of an interruption."""
        phase, stage, step = (self._facts.get(name) for name in ("phase", "stage", "step"))
        if phase == "train" and step:
            return f"at step {step} of {self._facts.get('steps')}, stage {stage}"
        return f"during `{phase}`" if phase else ""

    def remove(self) -> None:
        """The attempt is over."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def count_attempt(folder: Path) -> tuple[int, dict[str, int]]:
    """The number of this attempt at the run in `folder`, from 1, and what an earlier one has noted by `note_together`;
    kept there until the run is done."""
    path = folder / ATTEMPTS
    facts: dict[str, Any] = {}
    try:
        facts = json.loads(path.read_bytes())
        number = int(facts["attempts"]) + 1
    except (OSError, ValueError, KeyError, TypeError):
        number = 1
    together = facts.get("together") if isinstance(facts, dict) else None
    kept = together if isinstance(together, dict) else {}
    note_together(folder, number, kept)
    return number, kept


def note_together(folder: Path, number: int, facts: dict[str, int]) -> None:
    """Note for later attempts that this one has shared steps with other runs (`Record.together`)."""
    known = {"attempts": number, **({"together": facts} if facts else {})}
    write_atomic(folder / ATTEMPTS, json.dumps(known).encode(), durable=False)
