"""How a record is filled: before the first step, with what was measured, and when a run fails. Free of torch."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from peftbench.config import registry
from peftbench.config.schema import RunConfig
from peftbench.files import write_atomic
from peftbench.hub import COMMIT
from peftbench.measure.clock import PhaseClock
from peftbench.records.ids import Basis
from peftbench.records.record import Record
from peftbench.records.seen import seen_before
from peftbench.records.stage_costs import Peaks, stage_costs
from peftbench.records.stage_report import StageReport
from peftbench.tasks.base import TaskData
from peftbench.tasks.protocols import Draw

TRACEBACK = "traceback.txt"
"""In the folder of a run that crashed."""
NO_MODEL = "none"
"""What stands for the model of a method without a backbone."""


def base_record(cfg: RunConfig, data: TaskData, drawn: Draw, run_id: str, basis: Basis | None = None) -> Record:
    """A record with everything that is known before the first step; `basis` is what its name rests on besides."""
    return Record(
        run_id=run_id,
        status="failed",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=cfg.model.name if cfg.method.needs_model else NO_MODEL,
        method=cfg.method.name,
        task=data.name,
        subset=data.subset,
        protocol=drawn.protocol,
        shots=drawn.shots,
        data_seed=drawn.data_seed,
        seed=cfg.seed,
        metric=data.main_metric,
        score=None,
        draw={k: v for k, v in drawn.to_dict().items() if k != "ids"},
        data={
            "sha256": data.sha256(),
            "source": asdict(data.source),
            "notes": list(data.notes),
            # what it takes to score the stored predictions again
            "problem": data.problem,
            "labels": list(data.labels),
            "score_range": data.score_range,
            **({"test_texts": looked} if (looked := tricks_that_see_test(cfg)) else {}),
        },
        notes=[*data.notes, *drawn.notes, *_seen(cfg, data), *_test_texts(cfg), *_moving(cfg, basis)],
        tuning=dict(cfg.tuning),
        config=asdict(cfg),
        identity=dict(basis or {}),
    )


def _seen(cfg: RunConfig, data: TaskData) -> list[str]:
    plain = {"model": asdict(cfg.model), "method": {"needs_model": cfg.method.needs_model}}
    notes = []
    for name, task in (data.tasks or {"this task": data}).items():
        if how := seen_before(plain, task.name, task.subset):
            notes.append(f"the backbone has seen {name} in its own training: {how}")
    return notes


def _moving(cfg: RunConfig, basis: Basis | None) -> list[str]:
    """Which commit a branch of the hub was: it may be another one for the next run, which is another run then."""
    commit = ((basis or {}).get("contents") or {}).get("model", "").partition("+")[0]
    if cfg.model.source != "hub" or not commit or COMMIT.fullmatch(cfg.model.revision or ""):
        return []
    return [f"{cfg.model.revision or 'main'} of {cfg.model.path} was {commit}; model.revision={commit} pins it"]


def tricks_that_see_test(cfg: RunConfig) -> list[str]:
    """Names of the tricks that train with the texts of test."""
    return [o.name for o in cfg.method.trick.values() if registry.get("trick", o.name).sees_test(o)]


def _test_texts(cfg: RunConfig) -> list[str]:
    looked = tricks_that_see_test(cfg)
    return [f"trained with the texts of test (method.trick.{looked[0]}), without their labels"] if looked else []


def fill_measures(
    record: Record,
    reports: Sequence[StageReport],
    clock: PhaseClock,
    peaks: Sequence[Mapping[str, float]],
    section_peaks: Sequence[Peaks],
) -> None:
    """What the stages report and what was measured.

    Args:
        peaks, section_peaks: `MemoryMeter.peaks()` and `.sections()` of every process; the greatest count.
    """
    tokens, seconds = sum(r.tokens for r in reports), sum(r.seconds for r in reports)
    diverged = next((r for r in reports if r.status == "diverged"), None)
    last = reports[-1]
    record.status, record.reason = ("diverged", diverged.reason) if diverged else ("done", "")
    record.memory = {name: max(p[name] for p in peaks) for name in peaks[0]}
    record.memory["saved_bytes"] = max((r.saved_bytes for r in reports if r.saved_bytes is not None), default=None)
    record.compute |= {
        "steps": sum(r.steps for r in reports),
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if tokens and seconds else None,
        "step_flops": max((r.step_flops for r in reports if r.step_flops is not None), default=None),
    }
    record.stages = stage_costs(reports, clock, section_peaks)
    record.dev_score, record.curves, record.lr = last.dev_score, last.curves, last.lr
    record.notes += [note for r in reports for note in r.notes]


def fill_failure(
    record: Record,
    error: BaseException,
    folder: Path,
    reports: Sequence[StageReport],
    clock: PhaseClock,
    section_peaks: Sequence[Peaks],
) -> None:
    """Why a run ended early and what is finished of it; of a crash, the traceback goes to the run's `folder`."""
    record.stages = stage_costs(reports, clock, section_peaks)
    record.status = "failed" if isinstance(error, Exception) else "interrupted"
    record.score, record.scores = None, {}
    record.reason = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if isinstance(error, Exception):
        report = folder / TRACEBACK
        write_atomic(report, "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace"))
        record.reason += f" (traceback: {report})"
