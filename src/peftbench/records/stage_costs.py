"""What each stage of a run has cost, for the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.measure.clock import PhaseClock
from peftbench.records.stage_report import StageReport

Peaks = Mapping[str, Mapping[str, float]]
"""Section -> name of the peak -> MiB."""


def stage_costs(reports: Sequence[StageReport], clock: PhaseClock, peaks: Sequence[Peaks]) -> list[dict[str, Any]]:
    """`Record.stages`: what each stage did and cost, in order.

    Args:
        peaks: `MemoryMeter.sections()` of every process; the greatest counts.
    """
    return [_entry(report, report.section, clock, peaks) for report in reports]


def _entry(report: StageReport, section: str, clock: PhaseClock, peaks: Sequence[Peaks]) -> dict[str, Any]:
    facts = {
        "name": report.name,
        "status": report.status,
        "reason": report.reason,
        "steps": report.steps,
        "tokens": report.tokens,
        "train_seconds": report.seconds,
        "unlabeled_passes": report.unlabeled_passes,
        "teachers": report.teachers,
        "seconds": _seconds(clock, section, "wall"),
        "cpu_seconds": _seconds(clock, section, "cpu"),
        "memory": _memory(peaks, section) | ({} if report.saved_bytes is None else {"saved_bytes": report.saved_bytes}),
        "step_flops": report.step_flops,
        "dev_score": report.dev_score,
        "lr": report.lr,
        "notes": report.notes,
        "facts": report.facts,
        "parts": [_entry(part, f"{section}/{part.name}", clock, peaks) for part in report.parts],
    }
    return {name: value for name, value in facts.items() if value or name in ("name", "status", "steps", "seconds")}


def _inside(section: str, other: str) -> bool:
    return other == section or other.startswith(f"{section}/")


def _seconds(clock: PhaseClock, section: str, kind: str) -> dict[str, float]:
    """Seconds by phase of a section with its parts; phases that it did not come to are left out."""
    found: dict[str, float] = {}
    for name, seconds in clock.sections.items():
        if _inside(section, name):
            for phase, spent in seconds[kind].items():
                found[phase] = found.get(phase, 0.0) + spent
    return found


def _memory(peaks: Sequence[Peaks], section: str) -> dict[str, float]:
    """The greatest peaks of a section with its parts, over all processes."""
    found: dict[str, float] = {}
    for process in peaks:
        for name, own in process.items():
            if _inside(section, name):
                for peak, mib in own.items():
                    found[peak] = max(found.get(peak, 0.0), mib)
    return found
