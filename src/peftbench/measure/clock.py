"""Where the time of a run goes. Phases are exclusive: while an inner phase runs, the outer one stands still."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Seconds = dict[str, dict[str, float]]
"""`wall` and `cpu` -> phase -> seconds."""
Account = dict[str, Any]
"""Seconds of a whole run so far, with the same by section under `sections`, as plain data."""

PHASES = ("import", "data", "model", "method", "probe", "train", "eval", "save")


class PhaseClock:
    """Adds up wall and CPU seconds by phase.

    `with clock("train"): ...` counts for `train`, except for the time inside a nested `with clock("eval")`, so that
    evaluation on dev in the middle of training is never counted as training. The phases, with `other` for what lies
    between them, add up to the total. `synchronize` is called before every reading, so that work queued on a GPU is
    counted where it was ordered; set it once the device is known.

    The same seconds are kept by *section*, the stage of a method or a part of one that is at work (`enter`). Time
    outside every stage stands under "". So the sections, too, add up to the whole.
    """

    def __init__(self) -> None:
        self.wall: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.cpu: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.synchronize: Callable[[], None] = lambda: None
        self.sections: dict[str, Seconds] = {}
        self.section = ""
        self._stack: list[str] = []
        self._earlier: Account = {"wall": {}, "cpu": {}, "sections": {}}
        self._start = self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _settle(self) -> None:
        """Book the time since the last reading on the phase that is running."""
        self.synchronize()
        now = self._now()
        phase = self._stack[-1] if self._stack else "other"
        self._book(self.section, phase, now[0] - self._last[0], now[1] - self._last[1])
        self._last = now

    def _book(self, section: str, phase: str, wall: float, cpu: float) -> None:
        own = self.sections.setdefault(section, {"wall": {}, "cpu": {}})
        for seconds, spent in ((self.wall, wall), (own["wall"], wall), (self.cpu, cpu), (own["cpu"], cpu)):
            seconds[phase] = seconds.get(phase, 0.0) + spent

    def enter(self, section: str) -> str:
        """From here on seconds are those of `section`; returns the section before."""
        self._settle()
        before, self.section = self.section, section
        return before

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._settle()
        self._stack.append(phase)
        try:
            yield
        finally:
            self._settle()
            self._stack.pop()

    def add(self, phase: str, wall: float, cpu: float = 0.0) -> None:
        """Book time spent before the clock existed (imports of the command line)."""
        self._book("", phase, wall, cpu)
        self._start = (self._start[0] - wall, self._start[1] - cpu)

    def account(self) -> Account:
        """What was booked so far: `wall` and `cpu` seconds by phase, in all and by section, for a checkpoint."""
        self._settle()
        return copy.deepcopy({"wall": self.wall, "cpu": self.cpu, "sections": self.sections})

    def resume(self, account: Account) -> None:
        """Go on from the `account` of an earlier process, in place of any that was taken over before."""
        before, self._earlier = self._earlier, account
        nothing: Seconds = {"wall": {}, "cpu": {}}
        for section in {**before["sections"], **account["sections"]}:
            own = self.sections.setdefault(section, {"wall": {}, "cpu": {}})
            _add_gain(own, before["sections"].get(section, nothing), account["sections"].get(section, nothing))
        wall, cpu = _add_gain({"wall": self.wall, "cpu": self.cpu}, before, account)
        self._start = (self._start[0] - wall, self._start[1] - cpu)

    def total(self) -> float:
        """Wall seconds from the first reading to now; equals the sum of all phases."""
        self._settle()
        return self._last[0] - self._start[0]


def _add_gain(own: Seconds, before: Seconds, now: Seconds) -> tuple[float, float]:
    """Add to `own` what `now` has more than `before`, phase by phase; the sums of what was added, wall and CPU."""
    sums = []
    for kind in ("wall", "cpu"):
        phases = {**before[kind], **now[kind]}
        gain = {phase: now[kind].get(phase, 0.0) - before[kind].get(phase, 0.0) for phase in phases}
        for phase, seconds in gain.items():
            own[kind][phase] = own[kind].get(phase, 0.0) + seconds
        sums.append(sum(gain.values()))
    return sums[0], sums[1]


def duration(seconds: float | None) -> str:
    """A span of time as people say it.

    >>> [duration(s) for s in (None, 0.4, 59, 61, 7200, 90000)]
    ['', '0 s', '59 s', '1 min', '2.0 h', '1.0 d']
    """
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 86_400 else f"{seconds / 86_400:.1f} d"
