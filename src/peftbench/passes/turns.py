"""Several runs in one process that take turns, and meet where they can share work. Free of torch.

Each run has a thread, and only one thread works at a time. So whatever a run does between two meetings it does as if it
were alone: global states, such as random generators, are its own for that time.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from peftbench import attempt
from peftbench.errors import Interrupted

Serve = Callable[[Sequence[Any], Sequence["Member"]], Sequence[Any]]
"""(the requests that wait, the members that have not ended) -> the requests, at least one, that were answered."""

_thread = threading.local()


def here() -> Member | None:
    """The member of a company that this thread is; None outside of one."""
    return getattr(_thread, "member", None)


class Member:
    """One run of a company.

    Attributes:
        index: its place in the company, from 0.
        result: what its work returned.
        error: or raised.
        request: what it waits for at a meeting.
        note: called with the facts for its record when it has shared a step for the first time.
    """

    def __init__(self, company: Company, index: int, work: Callable[[], Any]) -> None:
        self.company, self.index = company, index
        self.result: Any = None
        self.error: BaseException | None = None
        self.request: Any = None
        self.note: Callable[[dict[str, int]], None] = lambda facts: None
        self.over = False
        self.turn = threading.Lock()
        self.turn.acquire()
        self._work = work

    def meet(self, request: Any) -> None:
        """Wait until `request` has been answered. The others work in the meantime."""
        self.request = request
        self.company.pass_on()
        self.turn.acquire()

    def live(self) -> None:
        """The whole of its thread."""
        _thread.member = self
        self.turn.acquire()
        try:
            if self.company.told is not None:
                raise Interrupted(self.company.told)
            self.result = self._work()
        except BaseException as error:  # whatever ends one run is told by whoever began them all
            self.error = error
        finally:
            self.over = True
            self.company.pass_on()


class Company:
    """Runs that take turns.

    Attributes:
        members: in the order of their works.
        shared: for whoever lets them meet: what they have in common.
        told: the stop signal that came.
    """

    def __init__(self, works: Sequence[Callable[[], Any]], serve: Serve) -> None:
        """`serve` answers requests when everybody waits for an answer."""
        self.members = [Member(self, index, work) for index, work in enumerate(works)]
        self.shared: dict[str, Any] = {}
        self.told: int | None = None
        self._serve = serve
        self._ended = threading.Event()

    def run(self) -> list[Member]:
        """Have all works done; in the main thread, stop signals are passed on to the runs.

        Raises:
            Interrupted: a second Ctrl-C came.
        """
        for member in self.members:
            threading.Thread(target=member.live, name=f"run {member.index}", daemon=True).start()
        with self._signals():
            self.pass_on()
            self._ended.wait()
        return self.members

    def pass_on(self) -> None:
        """Called by whoever's turn it is: it is somebody else's now."""
        while alive := [member for member in self.members if not member.over]:
            ready = next((member for member in alive if member.request is None), None)
            if ready is not None:
                ready.request = self  # at work: not ready until it is answered
                ready.turn.release()
                return
            answered = self._serve([member.request for member in alive], alive)
            for member in alive:
                if any(member.request is request for request in answered):
                    member.request = None
        self._ended.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [n for n in attempt.STOP_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._stop) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.told is not None and number == signal.SIGINT:
            raise Interrupted(number)
        self.told = self.told or number
        attempt.pass_on(number)
