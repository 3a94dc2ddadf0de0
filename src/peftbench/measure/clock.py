"""Where the time of a run goes. Phases are exclusive: while an inner phase runs, the outer one stands still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Account = dict[str, dict[str, float]]

PHASES = ("import", "data", "model", "method", "probe", "train", "eval", "save")


class PhaseClock:
    """Adds up wall and CPU seconds by phase.

    `with clock("train"): ...` counts for `train`, except for the time inside a nested `with clock("eval")`, so that
    evaluation on dev in the middle of training is never counted as training. The phases, with `other` for what lies
    between them, add up to the total. `synchronize` is called before every reading, so that work queued on a GPU is
    counted where it was ordered; set it once the device is known.
    """

    def __init__(self) -> None:
        self.wall: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.cpu: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self.synchronize: Callable[[], None] = lambda: None
        self._stack: list[str] = []
        self._earlier: Account = {"wall": {}, "cpu": {}}
        self._start = self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _settle(self) -> None:
        """Book the time since the last reading on the phase that is running."""
        self.synchronize()
        now = self._now()
        phase = self._stack[-1] if self._stack else "other"
        self.wall[phase] = self.wall.get(phase, 0.0) + now[0] - self._last[0]
        self.cpu[phase] = self.cpu.get(phase, 0.0) + now[1] - self._last[1]
        self._last = now

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
        self.wall[phase] += wall
        self.cpu[phase] += cpu
        self._start = (self._start[0] - wall, self._start[1] - cpu)

    def account(self) -> Account:
        """What was booked so far: `wall` and `cpu` seconds by phase, as plain data for a checkpoint."""
        self._settle()
        return {"wall": dict(self.wall), "cpu": dict(self.cpu)}

    def resume(self, account: Account) -> None:
        """Go on from the `account` of an earlier process, in place of any that was taken over before."""
        shift = []
        for own, kind in ((self.wall, "wall"), (self.cpu, "cpu")):
            before, now = self._earlier[kind], account[kind]
            gain = {phase: now.get(phase, 0.0) - before.get(phase, 0.0) for phase in {*now, *before}}
            for phase, seconds in gain.items():
                own[phase] = own.get(phase, 0.0) + seconds
            shift.append(sum(gain.values()))
        self._start = (self._start[0] - shift[0], self._start[1] - shift[1])
        self._earlier = account

    def total(self) -> float:
        """Wall seconds from the first reading to now; equals the sum of all phases."""
        self._settle()
        return self._last[0] - self._start[0]
