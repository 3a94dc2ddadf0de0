"""Peak memory of each phase of a run.

On a GPU the allocator keeps exact marks. On a CPU there is only the process's resident set, so what is reported is how
far it rose above its value at the start of the phase. See docs/measuring.md for what that leaves out.
"""

from __future__ import annotations

import copy
import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

MIB = 2**20


class Gauge(Protocol):
    """Something with a high-water mark."""

    def restart(self) -> float:
        """Lower the mark to the present level. Returns the level, in MiB, from which a phase that begins now counts."""

    def peak(self) -> dict[str, float]:
        """MiB at the mark, by the end of the name that it gets in the record."""

    def stop(self) -> None:
        """No phase is running; `restart` begins anew."""


class MemoryMeter:
    """`with meter.phase("train"): ...`, then `meter.peaks()`.

    Phases are exclusive like those of the clock: what an inner phase needs is not counted for the outer one. A phase
    that comes several times keeps its greatest peak. Each process measures itself. The same peaks are kept by section
    (`enter`), the stage of a method or a part of one.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """`device` None is the CPU, for methods that never load torch."""
        self._gauge: Gauge = GpuGauge(device) if device is not None and device.type == "cuda" else cpu_gauge()
        self._running: list[tuple[str, float]] = []
        self._peaks: dict[str, float] = {}
        self._sections: dict[str, dict[str, float]] = {}
        self._section = ""
        self._resident = not isinstance(self._gauge, GpuGauge)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block as phase `name`."""
        self._settle()
        self._running.append((name, self._gauge.restart()))
        try:
            yield
        finally:
            self._settle()
            self._running.pop()
            if self._running:
                self._gauge.restart()  # the outer phase goes on from its own level
            else:
                self._gauge.stop()

    def peaks(self) -> dict[str, float]:
        """`<phase>_peak_mib` of each phase there was; on a GPU also `<phase>_peak_reserved_mib`.

        On a CPU also `process_peak_mib`: what the process held at most, all that was there before the run included.
        """
        return dict(self._peaks)

    def enter(self, section: str) -> None:
        """From here on peaks are also those of `section`. Called between phases."""
        self._section = section

    def sections(self) -> dict[str, dict[str, float]]:
        """Section -> what `peaks` gives, of the phases inside it."""
        return copy.deepcopy(self._sections)

    def resume(self, peaks: dict[str, float], sections: dict[str, dict[str, float]]) -> None:
        """Take over the `peaks` and `sections` of an earlier process of the same run."""
        for name, mib in peaks.items():
            _raise(self._peaks, name, mib)
        for section, own in sections.items():
            for name, mib in own.items():
                _raise(self._sections.setdefault(section, {}), name, mib)

    def _settle(self) -> None:
        """Book the mark on the phase that is running."""
        marks = self._gauge.peak()
        if self._resident:
            self._book("process_peak_mib", marks["peak_mib"])
        if self._running:
            phase, level = self._running[-1]
            for suffix, mib in marks.items():
                self._book(f"{phase}_{suffix}", mib - level)

    def _book(self, name: str, mib: float) -> None:
        _raise(self._peaks, name, mib)
        _raise(self._sections.setdefault(self._section, {}), name, mib)


def _raise(peaks: dict[str, float], name: str, mib: float) -> None:
    """Keep the greater of the peak that is known and a new one."""
    peaks[name] = max(peaks.get(name, 0.0), mib)


class GpuGauge(Gauge):
    """Bytes that torch's caching allocator handed out (allocated) and holds (reserved): absolute, weights included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def restart(self) -> float:
        import torch

        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return 0.0

    def peak(self) -> dict[str, float]:
        import torch

        torch.cuda.synchronize(self._device)
        return {
            "peak_mib": torch.cuda.max_memory_allocated(self._device) / MIB,
            "peak_reserved_mib": torch.cuda.max_memory_reserved(self._device) / MIB,
        }

    def stop(self) -> None:
        pass


def cpu_gauge() -> Gauge:
    """The best one that this system has: the kernel's own mark, samples, or the mark of the whole process life."""
    try:
        KernelGauge().restart()
        return KernelGauge()
    except OSError:
        return SampledGauge() if os.path.exists("/proc/self/statm") else LifetimeGauge()


class KernelGauge(Gauge):
    """Linux keeps the high-water mark of the resident set and lets a process lower its own: exact, and free."""

    def restart(self) -> float:
        _return_free_memory()
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")  # 5: reset the peak to the current value (man 5 proc)
        return self.peak()["peak_mib"]

    def peak(self) -> dict[str, float]:
        with open("/proc/self/status", "rb", buffering=0) as file:
            mark = re.search(rb"^VmHWM:\s+(\d+) kB", file.read(), re.MULTILINE)
        if mark is None:
            raise OSError("/proc/self/status has no VmHWM")
        return {"peak_mib": int(mark[1]) / 1024}

    def stop(self) -> None:
        pass


class SampledGauge(Gauge):
    """A thread reads the resident set every 10 ms; a rise and fall in between is missed."""

    def __init__(self, seconds: float = 0.01) -> None:
        self._seconds = seconds
        self._mark = 0.0
        self._done: threading.Event | None = None

    def restart(self) -> float:
        _return_free_memory()
        self._mark = self._now()
        if self._done is None:
            self._done = threading.Event()
            threading.Thread(target=self._watch, args=(self._done,), name="memory-gauge", daemon=True).start()
        return self._mark

    def peak(self) -> dict[str, float]:
        self._mark = max(self._mark, self._now())
        return {"peak_mib": self._mark}

    def stop(self) -> None:
        if self._done is not None:
            self._done.set()
            self._done = None

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(self._seconds):
            self._mark = max(self._mark, self._now())

    @staticmethod
    def _now() -> float:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


class LifetimeGauge(Gauge):
    """The mark of the whole process life (macOS): a phase that stays below what was once reached shows 0."""

    def restart(self) -> float:
        return self.peak()["peak_mib"]

    def peak(self) -> dict[str, float]:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB}

    def stop(self) -> None:
        pass


def _return_free_memory() -> None:
    """Have glibc give freed memory back, so that what an earlier phase freed cannot hide what the next one needs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
