"""The same seconds twice: by phase, and by the stage that spent them."""

from __future__ import annotations

import json
import time

import pytest

from peftbench.measure.clock import PhaseClock
from peftbench.measure.memory import MemoryMeter


def spend(clock: PhaseClock, section: str, phase: str, seconds: float = 0.01) -> None:
    before = clock.enter(section)
    with clock(phase):
        time.sleep(seconds)
    clock.enter(before)


def sums(clock: PhaseClock, kind: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for seconds in clock.sections.values():
        for phase, spent in seconds[kind].items():
            found[phase] = found.get(phase, 0.0) + spent
    return found


def test_sections_add_up_to_the_phases() -> None:
    clock = PhaseClock()
    clock.add("import", 2.0, 1.5)
    with clock("data"):
        time.sleep(0.01)
    spend(clock, "1-ensemble/pattern-0", "train")
    spend(clock, "1-ensemble/pattern-1", "eval", 0.03)
    spend(clock, "2-distillation", "train")
    total = clock.total()
    assert clock.sections["1-ensemble/pattern-1"]["wall"]["eval"] >= 0.03
    assert "train" not in clock.sections["1-ensemble/pattern-1"]["wall"]
    for kind, whole in (("wall", clock.wall), ("cpu", clock.cpu)):
        assert {name: s for name, s in sums(clock, kind).items() if s} == pytest.approx(
            {name: s for name, s in whole.items() if s}
        )
    assert sum(clock.wall.values()) == pytest.approx(total)


def test_a_section_entered_inside_a_phase_splits_it() -> None:
    clock = PhaseClock()
    with clock("train"):
        time.sleep(0.01)
        clock.enter("1-a")
        time.sleep(0.02)
    assert clock.sections["1-a"]["wall"]["train"] >= 0.02
    assert clock.sections[""]["wall"]["train"] >= 0.01
    assert clock.wall["train"] == pytest.approx(sums(clock, "wall")["train"])


def test_an_account_that_is_taken_over_twice_counts_once() -> None:
    first = PhaseClock()
    spend(first, "1-a", "train", 0.02)
    early = json.loads(json.dumps(first.account()))
    spend(first, "2-b", "train", 0.03)
    late = json.loads(json.dumps(first.account()))
    second = PhaseClock()
    spend(second, "1-a", "model", 0.01)
    second.resume(early)
    second.resume(late)
    assert second.sections["1-a"]["wall"]["train"] == pytest.approx(first.sections["1-a"]["wall"]["train"])
    assert second.sections["2-b"]["wall"]["train"] == pytest.approx(first.sections["2-b"]["wall"]["train"])
    assert second.sections["1-a"]["wall"]["model"] >= 0.01
    total = second.total()
    assert sum(sums(second, "wall").values()) == pytest.approx(total)
    assert first.sections["2-b"]["wall"]["train"] >= 0.03


def test_peaks_by_section() -> None:
    meter = MemoryMeter()
    meter.enter("1-a")
    with meter.phase("train"):
        block = bytearray(40 * 2**20)
        block[::4096] = b"x" * len(block[::4096])
    del block
    meter.enter("2-b")
    with meter.phase("train"):
        pass
    meter.enter("")
    own = meter.sections()
    assert own["1-a"]["train_peak_mib"] > own["2-b"]["train_peak_mib"] + 20
    assert meter.peaks()["train_peak_mib"] == own["1-a"]["train_peak_mib"]
    meter.resume({"train_peak_mib": 1e6}, {"2-b": {"train_peak_mib": 1e6}})
    assert meter.sections()["2-b"]["train_peak_mib"] == meter.peaks()["train_peak_mib"] == 1e6
    assert meter.sections()["1-a"] == own["1-a"]
