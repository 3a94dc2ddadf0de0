"""What one run holds open while it lasts: its processes, its folder, its clocks, its tracker.

`peftbench.runner` tells the story. Only what a method needs is imported: a floor without a backbone never loads torch.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from peftbench import build
from peftbench.attempt import ATTEMPTS, PROGRESS, Attempt, ProgressFile, count_attempt, note_together
from peftbench.config.schema import RunConfig, TrackingConfig
from peftbench.errors import UsageError
from peftbench.files import StorageError, persist, readable_errors, replace_with, sync_folder, write_atomic
from peftbench.imports import importing
from peftbench.measure.clock import PhaseClock
from peftbench.passes.turns import here
from peftbench.records.fill import TRACEBACK, fill_failure
from peftbench.records.leases import LeaseHeld, LeaseLost
from peftbench.records.record import Record, plain
from peftbench.records.store import Store
from peftbench.records.tracking import Tracker, resolve_mode
from peftbench.stages import stages_of
from peftbench.tasks.base import TaskData
from peftbench.tasks.protocols import Draw
from peftbench.tuners import get_tuner

if TYPE_CHECKING:
    from peftbench.training.distributed import Dist

log = logging.getLogger(__name__)


class Session:
    """Context manager around one run. On a crash it files a record that says so."""

    def __init__(
        self, cfg: RunConfig, data: TaskData, drawn: Draw, record: Record, store: Store, clock: PhaseClock
    ) -> None:
        self.cfg, self.data, self.drawn, self.record = cfg, data, drawn, record
        self.store, self.clock = store, clock
        self.main = True
        """Whether this process prints and writes; the others only compute."""
        self.folder = store.folder(record.run_id)
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
        with self.clock("import"), importing():
            for module in needed_modules(self.cfg, self.data):
                import_module(module)
        from peftbench.measure.environment import environment
        from peftbench.measure.memory import MemoryMeter
        from peftbench.stages.base import Context

        dist, precision = self._join() if self.cfg.method.needs_model else (None, "fp32")
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
            dist=dist,
            precision=precision,
            log=lambda values: self.tracker.log(int(values["step"]), values),
            attempt=self.attempt,
            model_info=self.record.model_info,
        )
        if self.cfg.method.needs_model:
            self.context.new_learner = partial(build.new_learner, self.record)

    def _join(self) -> tuple[Dist, str]:
        """The processes of the run, this one among them, and the precision on their devices."""
        from peftbench.training.distributed import check_alike, join
        from peftbench.training.precision import resolve

        dist = join(self.cfg.trainer)
        self._resources.callback(dist.close)
        self.main = dist.main
        if dist.world > 1:
            check_alike(dist.gather(self._facts()))
        if dist.device.type == "cuda":
            import torch

            self.clock.synchronize = torch.cuda.synchronize
        return dist, resolve(self.cfg.trainer.precision, dist.device)

    def _facts(self) -> dict[str, Any]:
        """What every process of the run must agree in."""
        from peftbench.measure.environment import code_hash, versions
        from peftbench.records.ids import content

        record = self.record
        named = {name: versions().get(name) for name in ("torch", "transformers", "peft", "peftbench")}
        facts = {"data": record.data["sha256"], "draw": record.draw["sha256"], "peftbench's code": code_hash()}
        return {**plain(content(record.config)), **facts, "version": named, "run": record.run_id}

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
        number, self.record.together = count_attempt(self.folder)
        self.record.compute["attempts"] = number
        if (member := here()) is not None:
            member.note = partial(self._note_together, number)
        self.attempt.check = self._check_claim
        self.attempt.progress = ProgressFile(self.folder / PROGRESS)
        self._resources.callback(self.attempt.progress.remove)
        who = {name: getattr(self.record, name) for name in ("model", "method", "task", "subset", "seed")}
        self.attempt.progress.show("load", **who)
        drawn = json.dumps(self.drawn.to_dict(), ensure_ascii=False, indent=1)
        write_atomic(self.folder / "draw.json", drawn.encode("utf-8"))

    def _note_together(self, number: int, facts: dict[str, int]) -> None:
        """The run has shared a step with others: its seconds are not its own from here on."""
        self.record.together = facts
        note_together(self.folder, number, facts)

    def _check_claim(self) -> None:
        """Raises LeaseLost if the run is another process's by now; nothing of its folder is touched after that."""
        try:
            self.store.check_claim(self.record.run_id)
        except LeaseLost:
            self.attempt.progress.path = None
            raise

    @contextmanager
    def results(self) -> Iterator[Path]:
        """A folder of this process's own for what a run leaves; at the end of the block it goes to the run's folder,
        piece by piece. Two who both take the run for theirs never write into each other's files.

        Raises:
            LeaseLost: the run is another process's by now; what that one wrote is as it was.
            StorageError: the disk is full, or the file system failed.
        """
        self.attempt.check()
        own = self.folder / f"draft-results-{secrets.token_hex(8)}"
        with readable_errors("write to", self.folder):
            try:
                persist(partial(own.mkdir, parents=True, exist_ok=True))
                yield own
                for piece in sorted(own.iterdir()):
                    self.attempt.check()
                    persist(partial(replace_with, self.folder / piece.name, piece))
                persist(partial(sync_folder, self.folder))
            finally:
                shutil.rmtree(own, ignore_errors=True)

    def peaks(self) -> tuple[Sequence[dict[str, float]], Sequence[Any]]:
        """Peaks of memory, in all and by section, one entry a process. Every process takes part."""
        own = self.context.meter.peaks(), self.context.meter.sections()
        every = self.context.dist.gather(own) if self.context.dist else [own]
        return [peaks for peaks, _ in every], [sections for _, sections in every]

    def file(self) -> None:
        """The record, the leaderboard made anew from it, and the tracker's last word. Here the clock stops."""
        from peftbench.records.leaderboard import refresh

        record = self.record
        with self.attempt.held():
            total = self.clock.total()
            record.seconds = {**self.clock.wall, "total": total}
            record.cpu_seconds = dict(self.clock.cpu)
            self.store.save(record)
            self._filed = True
            if self.cfg.evaluate == "test":
                refresh(self.store)
            if record.status in ("done", "diverged"):  # any other goes on from what it left there
                shutil.rmtree(self.folder / "stages", ignore_errors=True)
                (self.folder / ATTEMPTS).unlink(missing_ok=True)
            self.tracker.finish(record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """File a crash or an interruption. A crash of a run in one process ends here; its record says why."""
        try:
            self._mistaken = isinstance(error, UsageError) and not isinstance(error, (LeaseHeld, StorageError))
            if isinstance(error, StorageError) and self.main and not self._filed:
                self._keep_trained()
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

    def _keep_trained(self) -> None:
        """The disk failed after the training, perhaps: what was trained is written for the next attempt, if it can."""
        if self.context.finish_if_stopped is None:
            return
        try:
            self.context.finish_if_stopped()
            log.warning("What was trained is kept in %s; the same command goes on from it.", self.folder / "stages")
        except UsageError as error:
            log.warning("What was trained could not be kept. %s", error)

    def _file_failure(self, error: BaseException) -> None:
        """A record with the reason. What is finished of the run is kept."""
        context = self.context
        fill_failure(self.record, error, self.folder, context.reports, self.clock, [context.meter.sections()])
        if not isinstance(error, Exception) and context.finish_if_stopped is not None:
            context.finish_if_stopped()
        self.file()


def needed_modules(cfg: RunConfig, data: TaskData) -> list[str]:
    """What a run imports sooner or later, so that it is imported at once and booked as import time; nothing else."""
    modules = ["peftbench.tasks.metrics", "peftbench.measure.environment"]
    modules += [module for task in (data, *data.tasks.values()) for module in task.kind.modules]
    if cfg.method.needs_model:
        modules += ["torch", "peftbench.learner", "peftbench.models.load"]
        modules += ["peftbench.formulations.score.formulation", "peftbench.stages.learning", "safetensors.torch"]
        modules += get_tuner(cfg.method.tuner.name).needed_modules()
    modules += [module for stage in stages_of(cfg.method.stages) for module in stage.needed_modules(cfg)]
    if resolve_mode(cfg.tracking.wandb, os.environ) != "disabled":
        modules.append("wandb")
    return modules
