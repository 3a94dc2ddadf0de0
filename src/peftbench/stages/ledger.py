"""What is finished of a run that was cut off: the parts of its stages, each with what it trained and its report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypedDict

from safetensors import SafetensorError
from torch import Tensor

from peftbench.attempt import AccountFacts
from peftbench.errors import UsageError
from peftbench.json_types import check
from peftbench.stages.base import Context, StageReport
from peftbench.training import checkpoint

log = logging.getLogger(__name__)

FINISHED = "finished"


class PartFacts(TypedDict):
    """`state.json` of what a part has left."""

    precision: str
    report: dict[str, Any]
    attempt: AccountFacts


class Trained(Protocol):
    """What a part of a stage changes: a learner, or the piece of one that the part touches."""

    def training_state(self) -> dict[str, Tensor]:
        """Tensors by name, on the CPU."""

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` gave."""


def once(
    context: Context,
    learner: Trained,
    work: Callable[[Path], StageReport],
    part: str | None = None,
    ends_stage: bool | None = None,
) -> StageReport:
    """Do a part of the present stage, or put its result into `learner` if an earlier attempt at the run has done it.

    Args:
        learner: as it is before the part; `work` trains it.
        work: called with the folder where `training.loop.train` may keep its checkpoints.
        part: its name, in a stage that has several; None if the whole stage is one.
        ends_stage: whether nothing of the stage follows it; None: if the whole stage is one.

    A part's result is written when more of the method follows it. That of the last stage is written only if the run is
    then told to stop: with trainer.checkpoint_every its last checkpoint is there anyway.

    Raises:
        UsageError: the earlier attempt computed in another precision.
        Interrupted: the process was told to stop; training has saved a checkpoint.
    """
    folder = context.stage_folder(part)
    report = _finished(context, learner, folder)
    if report is not None:
        return report
    with context.attempt.held():
        report = work(folder)
        if report.status == "done":
            finish = _finisher(context, learner, folder, report)
            if context.last_stage and (part is None if ends_stage is None else ends_stage):
                context.finish_if_stopped = finish
            else:
                finish()
    return report


def _finisher(context: Context, learner: Trained, folder: Path, report: StageReport) -> Callable[[], None]:
    """Writes the result as it then is; the checkpoints on the way to it are needed no more."""

    def finish() -> None:
        if context.processes().main:
            facts = {"precision": context.precision, "report": asdict(report), "attempt": context.attempt.account()}
            with context.clock("save"):
                checkpoint.write(folder / FINISHED, learner.training_state(), facts, context.attempt.check)
                checkpoint.clear(folder)

    return finish


def _finished(context: Context, learner: Trained, folder: Path) -> StageReport | None:
    dist = context.processes()
    if not dist.broadcast(checkpoint.sound(folder / FINISHED) if dist.main else None):
        return None
    point, problem = None, ""
    try:
        point = _read(folder / FINISHED, learner)
    except (ValueError, TypeError, OSError, SafetensorError) as error:
        problem = str(error)
    problems = [found for found in dist.gather(problem) if found]
    if point is None or problems:
        if dist.main:
            log.warning("%s is not what a stage leaves (%s): it is trained anew", folder / FINISHED, problems[0])
            checkpoint.remove(folder / FINISHED)
        return None
    tensors, facts = point
    if facts["precision"] != context.precision:
        raise UsageError(
            f"{folder / FINISHED} was trained in {facts['precision']}, and this machine computes in "
            f"{context.precision}. Go on where it began, or remove {context.folder} to start anew."
        )
    learner.load_training_state(tensors)
    context.attempt.resume(facts["attempt"])
    return StageReport.from_dict(facts["report"])


def _read(path: Path, learner: Trained) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a finished part, if they fit the learner. Raises ValueError or TypeError if not."""
    tensors, facts = checkpoint.load(path)
    check(facts, PartFacts, "state")
    StageReport.from_dict(facts["report"])
    shapes = {name: tensor.shape for name, tensor in learner.training_state().items()}  # more may be kept in training
    unfit = [name for name, shape in shapes.items() if name not in tensors or tensors[name].shape != shape]
    if unfit:
        raise ValueError(f"its tensors do not fit: {unfit[0]}")
    return tensors, facts
