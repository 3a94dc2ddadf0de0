"""One run while it lasts: its processes, its folder, its clocks and, at the end, its record.

`peftbench.run` tells the story; this is the stage machinery behind it. Only what a method needs is imported: a floor
without a backbone never loads torch.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING

from peftbench.attempt import ATTEMPTS, PROGRESS, Attempt, ProgressFile, count_attempt
from peftbench.config.schema import RunConfig, TrackingConfig
from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.measure.clock import PhaseClock
from peftbench.records.leases import LeaseHeld
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.stages import STAGES, check_stages, get_stage
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.protocols import Draw

if TYPE_CHECKING:
    from peftbench.formulations.predictions import Prediction
    from peftbench.learner import Learner
    from peftbench.stages.base import Predictor

TRACEBACK = "traceback.txt"
"""In the folder of a run that crashed."""
NO_MODEL = "none"
"""What stands for the model of a method without a backbone."""


class Session:
    """Context manager around one run. On a crash it files a record that says so."""

    def __init__(
        self, cfg: RunConfig, data: TaskData, drawn: Draw, run_id: str, store: Store, clock: PhaseClock
    ) -> None:
        self.record = base_record(cfg, data, drawn, run_id)
        if cfg.evaluate == "dev":
            data, drawn = without_test_labels(data, drawn)
        self.cfg, self.data, self.drawn, self.store, self.clock = cfg, data, drawn, store, clock
        self.main = True
        """Whether this process prints and writes; the others only compute."""
        self.folder = store.folder(run_id)
        self.attempt = Attempt(clock)
        self.known: Record | None = None
        self.is_known = False
        """Whether another process has finished the run just before this one claimed it; `known` is its record then,
        on the main process."""
        self._filed = self._mistaken = False
        self._resources = ExitStack()

    def __enter__(self) -> Session:
        try:
            self._resources.enter_context(self.attempt.signals())
            self._open()
        except BaseException:
            self._resources.close()
            raise
        return self

    def _open(self) -> None:
        """Join the other processes, claim the run's folder, start the measuring and the tracking."""
        with self.clock("import"):
            for module in needed_modules(self.cfg):
                import_module(module)
        from peftbench.measure.environment import environment
        from peftbench.measure.memory import MemoryMeter
        from peftbench.records.tracking import Tracker
        from peftbench.stages.base import Context

        dist, precision = None, "fp32"
        if self.cfg.method.needs_model:
            from peftbench.training.distributed import join
            from peftbench.training.precision import resolve

            dist = join(self.cfg.trainer)
            self._resources.callback(dist.close)
            self.main = dist.main
            precision = resolve(self.cfg.trainer.precision, dist.device)
            if dist.device.type == "cuda":
                import torch

                self.clock.synchronize = torch.cuda.synchronize
        if self.main:
            self._claim()
        self.is_known = dist.broadcast(self.known is not None) if dist else self.known is not None
        if self.is_known:
            return
        self.record.environment = environment(dist, precision)  # now: the checkout may be edited while the run lasts
        tracking = self.cfg.tracking if self.main else TrackingConfig(wandb="disabled")
        self.tracker = Tracker(tracking, self.record, self.folder)
        self._resources.callback(self.tracker.abandon)
        self.attempt.meter = meter = MemoryMeter(dist.device if dist else None)
        self.context = Context(
            cfg=self.cfg,
            data=self.data,
            draw=self.drawn,
            clock=self.clock,
            meter=meter,
            folder=self.folder,
            new_learner=self._new_learner if self.cfg.method.needs_model else None,
            dist=dist,
            precision=precision,
            log=lambda values: self.tracker.log(int(values["step"]), values),
            attempt=self.attempt,
        )

    def _claim(self) -> None:
        """Take the run's folder. Unless it is finished, make room for what this attempt will write."""
        run_id = self.record.run_id
        self._resources.enter_context(self.store.claim(run_id))
        self._resources.callback(self._leave_no_trace)
        known = self.store.load(run_id)
        if known is not None and known.status == "done" and not self.cfg.rerun:
            self.known = known
            return
        if self.cfg.rerun:
            self.store.supersede(run_id)
        (self.folder / TRACEBACK).unlink(missing_ok=True)
        self.record.compute["attempts"] = count_attempt(self.folder)
        self.attempt.check = lambda: self.store.check_claim(run_id)
        self.attempt.progress = ProgressFile(self.folder / PROGRESS)
        self._resources.callback(self.attempt.progress.remove)
        who = {name: getattr(self.record, name) for name in ("model", "method", "task", "subset", "seed")}
        self.attempt.progress.show("load", **who)
        drawn = json.dumps(self.drawn.to_dict(), ensure_ascii=False, indent=1)
        write_atomic(self.folder / "draw.json", drawn.encode("utf-8"))

    def _new_learner(self, cfg: RunConfig | None = None) -> Learner:
        """A fresh learner on this process's device, of the run's config or of a variation of it; the same config gives
        the same initial values."""
        from peftbench.build import build_learner
        from peftbench.training.precision import choose_attention

        learner, facts = build_learner(cfg or self.cfg, self.data, self.clock, self.drawn.train)
        self.record.model_info = facts
        device = self.context.processes().device
        choose_attention(learner, self.cfg.trainer.attention, self.context.precision, device)
        return learner.to(device)

    def train(self) -> Predictor:
        """The method's stages, in order, as far as none diverges."""
        predictor: Predictor | None = None
        check_stages(self.cfg.method.stages, self.context)
        if self.cfg.method.init_from is not None:
            from peftbench.init_from import check_sources

            tests = [row for rows in self._tests().values() for row in rows]
            with self.clock("data"):
                self.record.notes += check_sources(self.cfg, tests)
        for number, name in enumerate(self.cfg.method.stages):
            with self.context.in_stage(number, name):
                predictor = get_stage(name)(self.context, predictor)
            if self.context.reports[-1].status == "diverged":
                break
        if predictor is None:
            raise UsageError("method.stages: empty; a method needs at least one stage (`none` trains nothing).")
        return predictor

    def evaluate(self, predictor: Predictor) -> list[Prediction]:
        """Predict test and, after that, look at its labels, once. Not for a diverged model, nor for a trial."""
        from peftbench.tasks.metrics import score

        answered: list[Prediction] = []
        self.attempt.progress.show("eval")
        if self.cfg.evaluate == "dev":
            self._score_dev(predictor)
            return answered
        if any(report.status == "diverged" for report in self.context.reports):
            return answered
        for name, rows in self._tests().items():
            with self.clock("eval"), self.context.meter.phase("eval"):
                predictions = predictor.predict(rows)
            scores = score(self.data, rows, [p.label for p in predictions])
            self.record.scores.update({f"{metric}{name}": value for metric, value in scores.items()})
            answered += predictions
        self.record.score = self.record.scores[self.data.main_metric]
        return answered

    def _score_dev(self, predictor: Predictor) -> None:
        """The dev score of a model that training did not choose by dev (`protocol.select=last`, `shots=0`)."""
        last = self.context.reports[-1]
        if last.dev_score is None and last.status == "done":
            last.dev_score = self.context.dev_score(predictor)

    def _tests(self) -> dict[str, Sequence[Row]]:
        """The test set under "", further ones under "_<name>"."""
        return {"": self.drawn.test, **{f"_{name}": rows for name, rows in self.drawn.extra_tests.items()}}

    def save(self, predictor: Predictor, predictions: list[Prediction]) -> None:
        """Files first, the record last: once it is there, the run is done and all of it is on disk."""
        from peftbench.records.diagnosis import diagnose
        from peftbench.records.predictions import write_predictions

        self.attempt.progress.show("save")
        self._fill_measures(predictor)
        if not self.main:
            return
        with self.clock("save"):
            rows = {row.id: row for rows in self._tests().values() for row in rows}
            self.record.predictions = write_predictions(self.folder, [rows[p.id] for p in predictions], predictions)
            answers = [(rows[p.id].target, p.label) for p in predictions]
            self.record.diagnosis = diagnose(self.record, answers, predictor.tokenisation())
            self.record.parameters["adapter_bytes"] = self._save_adapter(predictor)
        self._file()

    def _save_adapter(self, predictor: Predictor) -> int:
        """Write what was trained, unless that is the whole backbone (`trainer.save=all` keeps that too); its bytes."""
        counts, choice = predictor.counts(), self.cfg.trainer.save
        trained = counts["module"] + counts["head"]
        if choice == "none" or (choice == "auto" and counts["module"] > counts["total"] // 2):
            self.record.notes.append(f"what was trained was not saved (trainer.save={choice})")
            return 4 * trained
        home = self.folder / "adapter"
        predictor.save(home)
        return sum(f.stat().st_size for f in home.rglob("*") if f.is_file())

    def _fill_measures(self, predictor: Predictor) -> None:
        """What was measured and what the stages report, into the record. Every process takes part."""
        from peftbench.stages.costs import stage_costs

        record, context, reports = self.record, self.context, self.context.reports
        own = context.meter.peaks(), context.meter.sections()
        peaks, section_peaks = zip(*(context.dist.gather(own) if context.dist else [own]), strict=True)
        tokens, seconds = sum(r.tokens for r in reports), sum(r.seconds for r in reports)
        diverged = next((r for r in reports if r.status == "diverged"), None)
        last = reports[-1]
        record.status, record.reason = ("diverged", diverged.reason) if diverged else ("done", "")
        record.parameters = predictor.counts()
        record.memory = {name: max(p[name] for p in peaks) for name in peaks[0]}
        record.memory["saved_bytes"] = max((r.saved_bytes for r in reports if r.saved_bytes is not None), default=None)
        record.compute |= {
            "steps": sum(r.steps for r in reports),
            "tokens": tokens,
            "tokens_per_second": tokens / seconds if tokens and seconds else None,
            "step_flops": max((r.step_flops for r in reports if r.step_flops is not None), default=None),
        }
        record.stages = stage_costs(reports, self.clock, section_peaks)
        record.dev_score, record.curves, record.lr = last.dev_score, last.curves, last.lr
        record.notes += [*(note for r in reports for note in r.notes), *predictor.remarks()]

    def _file(self) -> None:
        """The record, the leaderboard made anew from it, and the tracker's last word. Here the clock stops."""
        from peftbench.records.leaderboard import rebuild

        record = self.record
        with self.attempt.held():
            total = self.clock.total()
            record.seconds = {**self.clock.wall, "total": total}
            record.cpu_seconds = dict(self.clock.cpu)
            self.store.save(record)
            self._filed = True
            if self.cfg.evaluate == "test":
                rebuild(self.store)
            if record.status in ("done", "diverged"):  # any other goes on from what it left there
                shutil.rmtree(self.folder / "stages", ignore_errors=True)
                (self.folder / ATTEMPTS).unlink(missing_ok=True)
            self.tracker.finish(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """File a crash or an interruption. A crash of a run in one process ends here; its record says why."""
        try:
            self._mistaken = isinstance(error, UsageError) and not isinstance(error, LeaseHeld)
            if error is None or self._filed or isinstance(error, (UsageError, SystemExit)):
                return False
            if self.main:
                self._file_failure(error)
            return isinstance(error, Exception) and (self.context.dist is None or self.context.dist.world == 1)
        finally:
            self._resources.close()

    def _leave_no_trace(self) -> None:
        """The folder of a run that turned out to be a mistake goes, unless an attempt left something to go on from."""
        begun = (self.folder / "stages").exists() or self.record.compute.get("attempts") != 1
        if self._mistaken and not begun and self.store.load(self.record.run_id) is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file_failure(self, error: BaseException) -> None:
        """A record with the reason, and the traceback in the run's folder. What is finished of it is kept."""
        from peftbench.stages.costs import stage_costs

        record = self.record
        record.stages = stage_costs(self.context.reports, self.clock, [self.context.meter.sections()])
        record.status = "failed" if isinstance(error, Exception) else "interrupted"
        record.score, record.scores = None, {}
        record.reason = f"{type(error).__name__}: {error}".strip().rstrip(":")
        if isinstance(error, Exception):
            report = self.folder / TRACEBACK
            write_atomic(report, "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace"))
            record.reason += f" (traceback: {report})"
        elif self.context.finish_if_stopped is not None:
            self.context.finish_if_stopped()
        self._file()


def needed_modules(cfg: RunConfig) -> list[str]:
    """What a run imports sooner or later, so that it is imported at once and booked as import time."""
    modules = ["peftbench.tasks.metrics", "peftbench.measure.environment", "sklearn.metrics", "scipy.stats"]
    if "classical" in cfg.method.stages:
        modules += ["sklearn.linear_model", "sklearn.dummy", "sklearn.feature_extraction.text"]
    if cfg.method.needs_model:
        modules += ["torch", "peftbench.learner", "peftbench.tuners", "peftbench.models.load"]
        modules += ["peftbench.formulations.score", "peftbench.stages.supervised", "safetensors.torch"]
    modules += [STAGES[name].split(":")[0] for name in cfg.method.stages if name in STAGES]
    if cfg.tracking.wandb != "disabled":
        modules.append("wandb")
    return modules


def without_test_labels(data: TaskData, drawn: Draw) -> tuple[TaskData, Draw]:
    """The same rows, but those of test without their targets, so that no step of a run can look at them.

    The official dev split goes too: it is the test set where the official test has no labels.
    """

    def bare(rows: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(replace(row, target=None) for row in rows)

    tests = {name: bare(rows) for name, rows in drawn.extra_tests.items()}
    return (
        replace(data, dev=(), test=(), extra_tests={}),
        replace(drawn, test=bare(drawn.test), extra_tests=tests),
    )


def base_record(cfg: RunConfig, data: TaskData, drawn: Draw, run_id: str) -> Record:
    """A record with everything that is known before the first step."""
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
        },
        notes=[*data.notes, *drawn.notes],
        tuning=dict(cfg.tuning),
        config=asdict(cfg),
    )
