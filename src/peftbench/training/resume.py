"""A point on the way of a training: what a checkpoint holds, how it is taken and put back."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, get_type_hints

import torch
from safetensors import SafetensorError
from torch import Tensor

from peftbench.attempt import AccountFacts, Attempt
from peftbench.errors import UsageError
from peftbench.json_types import check
from peftbench.training import checkpoint, optim

if TYPE_CHECKING:
    from peftbench.learner import Learner
    from peftbench.training.distributed import Dist

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What of the loop's engine is a part of a checkpoint, or decides whether one fits."""

    learner: Learner
    optimizer: torch.optim.AdamW
    names: dict[Tensor, str]
    dist: Dist

    def fingerprint(self) -> str:
        """What a checkpoint must share with this training to be a point on its way."""


@dataclass
class LoopProgress:
    """Everything of a training in progress that is plain data: the JSON half of a checkpoint."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    dev_steps: list[int] = field(default_factory=list)
    dev_scores: list[float] = field(default_factory=list)
    norms: dict[str, list[float]] = field(default_factory=dict)
    best_step: int | None = None
    best_score: float = -math.inf
    stale: int = 0
    """Evaluations since the best score last rose."""
    reason: str = ""
    """Why the training diverged, if it did."""

    def read(self, losses: Sequence[float]) -> list[tuple[int, float]]:
        """Book the newest steps' losses; return them with their 1-based steps, up to the first that is not finite."""
        new = []
        for loss in losses:
            self.losses.append(loss)
            new.append((len(self.losses), loss))
            if not math.isfinite(loss):
                self.step = len(self.losses)
                self.reason = f"the training loss became {loss} at step {self.step}"
                break
        return new

    def note(self, score: float) -> bool:
        """Book a dev score of the current step; True if its state is now the best.

        The highest score wins. Of equal scores the later step does: ties are common on a small dev set, and the later
        state has seen more. Patience counts from the last rise, so that a plateau ends. A NaN never wins.
        """
        self.dev_steps.append(self.step)
        self.dev_scores.append(score)
        self.stale = 0 if score > self.best_score else self.stale + 1
        if not score >= self.best_score:
            return False
        self.best_score, self.best_step = score, self.step
        return True


def save(
    folder: Path, engine: Engine, progress: LoopProgress, best: Mapping[str, Tensor] | None, attempt: Attempt
) -> None:
    """Write the checkpoint of this step (rank 0).

    Raises:
        UsageError: the folder cannot be written, or the run is another process's by now.
    """
    if not engine.dist.main:
        return
    tensors = {f"learner/{name}": t for name, t in engine.learner.training_state().items()}
    tensors |= {f"best/{name}": t for name, t in (best or {}).items()}
    tensors |= {f"optimizer/{name}": t for name, t in optim.optimizer_tensors(engine.optimizer, engine.names).items()}
    state = {"fingerprint": engine.fingerprint(), "progress": asdict(progress), "attempt": attempt.account()}
    checkpoint.save(folder, progress.step, tensors, state, attempt.check)


Point = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and state of a checkpoint."""


class StateFacts(TypedDict):
    """`state.json` of a checkpoint."""

    fingerprint: str
    progress: dict[str, Any]
    attempt: AccountFacts


def resume(folder: Path, engine: Engine, attempt: Attempt) -> tuple[LoopProgress, dict[str, Tensor] | None]:
    """Put the newest checkpoint that is sound and understood into the engine; its progress and best state, or those of
    a beginning. One whose bytes are whole but whose content is no point of a training is removed with a warning.

    Raises:
        UsageError: it belongs to another training.
    """
    dist = engine.dist
    while (name := dist.broadcast(checkpoint.newest(folder) if dist.main else None)) is not None:
        point, problem = None, ""
        try:
            point = _read(folder / name, engine)
        except (ValueError, OSError) as error:
            problem = str(error)
        problems = [found for found in dist.gather(problem) if found]
        if point is not None and not problems:
            return _put_back(point, engine, attempt)
        if dist.main:
            log.warning("%s cannot be gone on from (%s); it is removed", folder / name, (problems or [""])[0])
            checkpoint.remove(folder / name)
    return LoopProgress(), None


def _read(path: Path, engine: Engine) -> Point:
    """The checkpoint, if all of it fits the engine. Raises ValueError if not, UsageError for another training's."""
    try:
        tensors, state = checkpoint.load(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    check({**state, "progress": {}}, StateFacts, "state")  # the progress may hold an infinity, see `_check_state`
    if not re.fullmatch("[0-9a-f]{64}", state["fingerprint"]):
        raise ValueError("its fingerprint is none")
    if state["fingerprint"] != engine.fingerprint():
        raise UsageError(
            f"{path} belongs to another training (other items, rates, trainer settings or precision); remove "
            f"{path.parent} to train from the first step."
        )
    _check_state(state)
    _check_tensors(tensors, engine)
    return tensors, state


def _check_state(state: dict[str, Any]) -> None:
    """Raises ValueError if a field of the state is of another type than what was written."""
    hints = get_type_hints(LoopProgress)
    if not isinstance(state["progress"], dict) or state["progress"].keys() != hints.keys():
        raise ValueError("its progress is none")
    if not isinstance(state["progress"]["best_score"], float):
        raise ValueError("its progress is none")
    for name, value in state["progress"].items():
        if name != "best_score":  # minus infinity before the first evaluation
            check(value, hints[name], name)


def _check_tensors(tensors: Mapping[str, Tensor], engine: Engine) -> None:
    """Raises ValueError if what is trained, or a moment of it, has another name or shape. What tuner and formulation
    keep beside it comes and goes with the steps."""
    trained = {name: tensor.shape for name, tensor in engine.learner.trainable_state().items()}
    for part in ("learner", "best"):
        found = {name.removeprefix(f"{part}/"): t.shape for name, t in tensors.items() if name.startswith(f"{part}/")}
        if (found or part == "learner") and any(found.get(name) != shape for name, shape in trained.items()):
            raise ValueError("its tensors do not fit")
    shapes = {name: parameter.shape for parameter, name in engine.names.items()}
    for name, tensor in tensors.items():
        parameter = name.removeprefix("optimizer/").rpartition("/")[0]
        if name.startswith("optimizer/") and (
            parameter not in shapes or tensor.shape not in (shapes[parameter], torch.Size())
        ):
            raise ValueError(f"{name} does not fit")


def _put_back(point: Point, engine: Engine, attempt: Attempt) -> tuple[LoopProgress, dict[str, Tensor] | None]:
    tensors, state = point

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    engine.learner.load_training_state(part("learner/"))
    optim.load_optimizer_tensors(engine.optimizer, engine.names, part("optimizer/"))
    attempt.resume(state["attempt"])
    return LoopProgress(**state["progress"]), part("best/") or None
