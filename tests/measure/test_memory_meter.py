"""Peaks belong to the phase that needed the memory."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from peftbench.measure.memory import Gauge, GpuGauge, KernelGauge, LifetimeGauge, MemoryMeter, SampledGauge, cpu_gauge

SLACK = 8.0  # MiB that Python, threads and counters of the kernel may add or hide


def need(mib: int) -> None:
    """Touch this much memory and give all of it back to the system."""
    with mmap.mmap(-1, mib * 2**20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        before = len(looks)
        while sampling() and len(looks) < before + 2:  # the first may have begun before
            time.sleep(0.001)


looks: list[float] = []
"""What the sampling gauge has seen."""


@pytest.fixture(autouse=True)
def _count_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> float:
        looks.append(real())
        return looks[-1]

    real = SampledGauge._now
    monkeypatch.setattr(SampledGauge, "_now", staticmethod(look))


def sampling() -> bool:
    return any(thread.name == "memory-gauge" for thread in threading.enumerate())


def gauges() -> list[object]:
    makers: list[object] = [pytest.param(SampledGauge, id="sampled")]
    kernel = isinstance(cpu_gauge(), KernelGauge)
    reason = "this system does not let a process reset its memory mark"
    makers.append(pytest.param(KernelGauge, id="kernel", marks=pytest.mark.skipif(not kernel, reason=reason)))
    return makers


@pytest.mark.parametrize("make", gauges())
def test_phases_are_exclusive_and_keep_their_greatest_peak(make: Callable[[], Gauge]) -> None:
    meter = MemoryMeter()
    meter._gauge = make()
    need(150)  # before any phase: nobody's
    with meter.phase("train"):
        need(30)
        for mib in (60, 90, 20):
            with meter.phase("eval"):
                need(mib)
        need(45)
    need(150)
    peaks = meter.peaks()
    assert peaks.keys() == {"train_peak_mib", "eval_peak_mib", "process_peak_mib"}
    assert peaks["process_peak_mib"] > 90  # not a growth: the interpreter itself is in it
    assert peaks["train_peak_mib"] == pytest.approx(45, abs=SLACK)
    assert peaks["eval_peak_mib"] == pytest.approx(90, abs=SLACK)


@pytest.mark.parametrize("make", gauges())
def test_memory_that_was_freed_before_does_not_hide_what_a_phase_needs(make: Callable[[], Gauge]) -> None:
    rubbish = [bytearray(2000) for _ in range(30_000)]  # small pieces, which glibc keeps for itself
    del rubbish
    meter = MemoryMeter()
    meter._gauge = make()
    with meter.phase("train"):
        used = [bytearray(2000) for _ in range(20_000)]
    assert len(used) == 20_000
    assert meter.peaks()["train_peak_mib"] == pytest.approx(40, abs=SLACK)


def test_a_phase_that_fails_is_closed() -> None:
    meter = MemoryMeter()

    def fail() -> None:
        with meter.phase("train"):
            need(20)
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        fail()
    need(100)
    assert meter.peaks()["train_peak_mib"] == pytest.approx(20, abs=SLACK)


def test_the_sampling_thread_ends_with_the_phases() -> None:
    meter = MemoryMeter()
    meter._gauge = SampledGauge(0.001)
    with meter.phase("train"):
        assert "memory-gauge" in {t.name for t in threading.enumerate()}
    for thread in threading.enumerate():
        if thread.name == "memory-gauge":
            thread.join(60)
    assert "memory-gauge" not in {t.name for t in threading.enumerate()}


def test_the_lifetime_gauge_never_goes_below_zero() -> None:
    meter = MemoryMeter()
    meter._gauge = LifetimeGauge()
    with meter.phase("train"):
        pass
    assert meter.peaks()["train_peak_mib"] == pytest.approx(0, abs=SLACK)


def test_no_phase_no_number() -> None:
    assert MemoryMeter().peaks() == {}


def test_a_gpu_reports_absolute_allocated_and_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arithmetic around torch's counters; the counters themselves need a GPU (next test)."""
    import torch

    mark = SimpleNamespace(allocated=0, reserved=0, resets=0)
    fake = {
        "synchronize": lambda device: None,
        "reset_peak_memory_stats": lambda device: setattr(mark, "resets", mark.resets + 1),
        "max_memory_allocated": lambda device: mark.allocated * 2**20,
        "max_memory_reserved": lambda device: mark.reserved * 2**20,
    }
    for name, function in fake.items():
        monkeypatch.setattr(torch.cuda, name, function)
    meter = MemoryMeter(torch.device("cuda", 0))
    assert isinstance(meter._gauge, GpuGauge)
    with meter.phase("train"):
        mark.allocated, mark.reserved = 500, 600
        with meter.phase("eval"):
            mark.allocated, mark.reserved = 300, 700
        mark.allocated, mark.reserved = 400, 650
    assert meter.peaks() == {
        "train_peak_mib": 500,
        "train_peak_reserved_mib": 650,
        "eval_peak_mib": 300,
        "eval_peak_reserved_mib": 700,
    }
    assert mark.resets == 3


@pytest.mark.gpu
def test_on_a_real_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda", 0)
    weights = torch.ones(2**20, device=device)  # 4 MiB
    meter = MemoryMeter(device)
    with meter.phase("train"):
        torch.ones(16 * 2**20, device=device)  # 64 MiB, freed at once
        with meter.phase("eval"):
            torch.ones(2 * 2**20, device=device)
    peaks = meter.peaks()
    assert len(weights) == 2**20
    assert peaks["train_peak_mib"] == pytest.approx(68, abs=2)
    assert peaks["eval_peak_mib"] == pytest.approx(12, abs=2)
    assert peaks["train_peak_reserved_mib"] >= peaks["train_peak_mib"]
