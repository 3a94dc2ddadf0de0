"""A point on the way of a training: what a checkpoint holds, how it is taken and put back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from peftbench.attempt import Attempt
from peftbench.errors import UsageError
from peftbench.training import checkpoint, optim

if TYPE_CHECKING:
    from peftbench.learner import Learner
    from peftbench.training.distributed import Dist


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
    attempt.check()
    tensors = {f"learner/{name}": t for name, t in engine.learner.training_state().items()}
    tensors |= {f"best/{name}": t for name, t in (best or {}).items()}
    tensors |= {f"optimizer/{name}": t for name, t in optim.optimizer_tensors(engine.optimizer, engine.names).items()}
    state = {"fingerprint": engine.fingerprint(), "progress": asdict(progress), "attempt": attempt.account()}
    checkpoint.save(folder, progress.step, tensors, state)


def resume(folder: Path, engine: Engine, attempt: Attempt) -> tuple[LoopProgress, dict[str, Tensor] | None]:
    """Put the newest sound checkpoint into the engine; its progress and best state, or those of a beginning.

    Raises:
        UsageError: it belongs to another training.
    """
    name = engine.dist.broadcast(checkpoint.newest(folder) if engine.dist.main else None)
    if name is None:
        return LoopProgress(), None
    tensors, state = checkpoint.load(folder / name)
    if state["fingerprint"] != engine.fingerprint():
        raise UsageError(
            f"{folder / name} belongs to another training (other items, rates, trainer settings or precision); remove "
            f"{folder} to train from the first step."
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    engine.learner.load_training_state(part("learner/"))
    optim.load_optimizer_tensors(engine.optimizer, engine.names, part("optimizer/"))
    attempt.resume(state["attempt"])
    return LoopProgress(**state["progress"]), part("best/") or None
