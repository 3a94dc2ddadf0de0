"""The training loop: one for every method, on one process or several, from the first step or from a checkpoint.

The gradient of a step is that of (sum of weight x loss) / (sum of weights) over the *global* batch, however that is
cut into micro-batches and processes. All randomness of a step (dropout) follows from seed, step and rank, so a resumed
training needs no generator states and equals an uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from peftbench.attempt import Attempt
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded
from peftbench.measure.clock import PhaseClock
from peftbench.training import batching, optim
from peftbench.training.norms import NormMeter
from peftbench.training.precision import autocast, resolve
from peftbench.training.predict import to_device
from peftbench.training.progress import Silent, reporter
from peftbench.training.resume import LoopProgress, resume, save

if TYPE_CHECKING:
    from peftbench.config.schema import TrainerConfig
    from peftbench.learner import Learner
    from peftbench.training.distributed import Dist

EVALUATIONS = 8
"""Evaluations on dev in a training when `trainer.eval_every` is null."""
CURVE_POINTS = 500
"""A longer loss curve is thinned to means over neighbouring steps."""
GPU_READ_EVERY = 20
"""Steps between readings of the loss on a GPU, each of which makes the host wait; on a CPU every step is read."""


@dataclass
class TrainResult:
    """How a training went.

    Attributes:
        status: `diverged` when the loss or a trained parameter became NaN or infinite; `reason` says where.
        steps: optimiser steps done, those before a resume included.
        tokens: tokens of the items trained on, over all ranks; padding and virtual tokens are not counted.
        seconds: wall seconds of training alone, without evaluations and checkpoints.
        curves: `step`, `loss` (mean over the steps since the previous point), `lr/<group>`; `dev_step`, `dev`;
            `norm_step` with `gradient/<group>`, `update/<group>` and `weight/<group>` (see `training.norms`).
        best_step: the step whose state the learner holds at the end, if dev chose it.
        dev_score: its dev score.
        passes: row id -> how often its item was trained on, over all ranks.
    """

    status: Literal["done", "diverged"]
    steps: int
    tokens: int
    seconds: float
    curves: dict[str, list]
    best_step: int | None = None
    dev_score: float | None = None
    reason: str = ""
    passes: Mapping[str, int] = field(default_factory=dict)


def train(
    learner: Learner,
    items: Sequence[Encoded],
    *,
    cfg: TrainerConfig,
    lr: Mapping[str, float],
    weight_decay: float,
    seed: int,
    select: str,
    evaluate: Callable[[], float] | None,
    clock: PhaseClock,
    dist: Dist,
    folder: Path | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
    attempt: Attempt | None = None,
    constant: Container[str] = (),
    course: optim.Course | None = None,
    repeats: int = 1,
) -> TrainResult:
    """Train `learner`, which lies on `dist.device`, on `items`.

    Args:
        lr: group name -> peak learning rate, for every group of `learner.param_groups()`.
        select: "best" keeps the state with the highest dev score, if there is an `evaluate`; "last" the final one.
        evaluate: returns the dev score, higher is better; called on every rank, books its own time on `clock`.
        folder: where a checkpoint to go on from is looked for, and where they go every `cfg.checkpoint_every` steps
            and when the process is told to stop. They stay until `checkpoint.clear(folder)`.
        on_log: called on rank 0 with `step`, `loss`, `lr/<group>`, or with `step`, `dev`.
        attempt: the run's, which is told to stop and whose costs go into a checkpoint.
        constant: groups whose rate stays at its peak.
        course: whose optimiser and schedule go on here; None begins both anew. Its optimiser
            has rates and weight decay, which must be `lr`, `constant` and `weight_decay`.
        repeats: steps in a row on one batch; `cfg.steps` counts all of them, `cfg.epochs` the batches.

    Raises:
        UsageError: learning rates do not fit; `folder` holds checkpoints of another training, or cannot be written.
        Interrupted: some process was told to stop, and what was done by then is in a checkpoint.
    """
    attempt = attempt or Attempt(clock)
    with clock("train"), _gradient_checkpointing(learner, cfg.gradient_checkpointing):
        engine = _Engine(learner, items, cfg, lr, weight_decay, seed, dist, constant, course, repeats)
        training = _Training(
            engine,
            clock,
            attempt,
            evaluate=evaluate if select == "best" else None,
            log=on_log if on_log and dist.main else lambda entry: None,
            folder=folder,
        )
        training.run()
    training.progress.seconds = clock.wall["train"] - training.started
    return _result(engine, training.progress)


class _Training:
    """Steps until the plan is done, the loss is lost, patience is at its end or the process is told to stop."""

    def __init__(
        self,
        engine: _Engine,
        clock: PhaseClock,
        attempt: Attempt,
        evaluate: Callable[[], float] | None,
        log: Callable[[dict[str, float]], None],
        folder: Path | None,
    ) -> None:
        self.engine, self.cfg, self.clock, self.attempt = engine, engine.cfg, clock, attempt
        self.evaluate, self.log, self.folder = evaluate, log, folder
        self.progress, self.best = resume(folder, engine, attempt) if folder else (LoopProgress(), None)
        self.started = clock.wall["train"] - self.progress.seconds
        self.unread: list[Tensor] = []

    def run(self) -> None:
        """Train, and go back to the best state if one was looked for."""
        engine, progress = self.engine, self.progress
        with reporter(self.cfg.progress and engine.dist.main, engine.steps, progress.step) as shown:
            while progress.step < engine.steps and self._goes_on(shown):
                pass
        if self.best is not None and not progress.reason:
            engine.learner.load_trainable_state(self.best)
        progress.reason = progress.reason or engine.damage(progress.step)

    def _goes_on(self, shown: Silent) -> bool:
        """Do a step and what is due after it; whether another one may follow."""
        engine, progress, every = self.engine, self.progress, self.cfg.checkpoint_every
        self.unread.append(engine.step(progress.step))
        progress.step += 1
        evaluates = engine.due(progress.step, engine.eval_every)
        saves = bool(every) and engine.due(progress.step, every)
        told = self.attempt.received is not None
        if evaluates or saves or engine.due(progress.step, engine.read_every) or (told and engine.dist.world == 1):
            told = self._read(told, shown)
        else:
            told = False  # the others cannot know yet
        if progress.reason or (self.evaluate and evaluates and self._is_enough(self.evaluate, shown)):
            return False
        if self.folder and (saves or told):
            with self.clock("save"):
                progress.seconds = self.clock.wall["train"] - self.started
                save(self.folder, engine, progress, self.best, self.attempt)
        if told:
            self.attempt.end()
        return True

    def _read(self, told: bool, shown: Silent) -> bool:
        """Read the losses since the last time, over all ranks; whether any rank was told to stop."""
        engine, progress = self.engine, self.progress
        losses, told = _exchange(self.unread, told, engine.dist)
        for step, loss in progress.read(losses):
            self.log({"step": step, "loss": loss, **engine.rates(step)})
        self.unread.clear()
        engine.norms.read(progress.norms)
        shown.step(progress.step, progress.losses[-1], getattr(engine.learner, "said", ""))
        self.attempt.progress.show(step=progress.step, steps=engine.steps, loss=progress.losses[-1])
        return told

    def _is_enough(self, evaluate: Callable[[], float], shown: Silent) -> bool:
        """Look at dev and keep the state if it is the best so far; whether patience is at its end."""
        progress = self.progress
        score = float(self.engine.dist.broadcast(evaluate()))
        if progress.note(score):
            self.best = self.engine.learner.trainable_state()
        shown.dev(progress.step, score)
        self.log({"step": progress.step, "dev": score})
        patience = self.cfg.patience
        return patience is not None and 0 < patience <= progress.stale


class _Engine:
    """What makes a step: the plan of batches, the optimiser, and the learner, under DDP when there are more ranks."""

    def __init__(
        self,
        learner: Learner,
        items: Sequence[Encoded],
        cfg: TrainerConfig,
        lr: Mapping[str, float],
        weight_decay: float,
        seed: int,
        dist: Dist,
        constant: Container[str] = (),
        course: optim.Course | None = None,
        repeats: int = 1,
    ) -> None:
        if unweighted := [item.id for item in items if item.weight <= 0]:
            raise ValueError(f"nothing can be learned from items without weight: {unweighted[:3]}")
        self.learner, self.items, self.cfg, self.seed, self.dist = learner, items, cfg, seed, dist
        self.lr, self.constant, self.weight_decay = dict(lr), constant, weight_decay
        self.repeats, self.steps = repeats, batching.total_steps(cfg, len(items), repeats)
        shares = [item.share for item in items]
        self.shares = shares if any(share != 1 for share in shares) else None
        batches = math.ceil(self.steps / repeats)
        planned = batching.plan_batches([i.length for i in items], cfg.batch_size, batches, seed, self.shares)
        self.plan = [batch for batch in planned for _ in range(repeats)][: self.steps]
        self.eval_every = cfg.eval_every or math.ceil(self.steps / EVALUATIONS)
        self.read_every = GPU_READ_EVERY if dist.device.type == "cuda" else 1
        self.course = course or optim.Course(
            optim.build_optimizer(learner.param_groups(), lr, weight_decay, constant=constant), self.steps
        )
        self.optimizer = self.course.optimizer
        self.names: dict[Tensor, str] = {p: name for name, p in learner.named_parameters() if p.requires_grad}
        if self.names.keys() != {p for group in self.optimizer.param_groups for p in group["params"]}:
            raise ValueError("param_groups() must hold every trainable parameter, and only those")
        self.norms = NormMeter(learner.param_groups(), self.steps)
        self.precision = resolve(cfg.precision, dist.device)
        learner.train()
        self.forward: nn.Module = self._distributed() if dist.world > 1 else learner

    def step(self, step: int) -> Tensor:
        """Do the 0-based `step`; returns this rank's share of the global batch's mean loss, on the device."""
        _seed_everything(self.seed, step, self.dist.rank, self.dist.device)
        batch = self.plan[step]
        self.learner.begin_step(step, self.seed, [self.items[i] for i in batch])
        weight = sum(self.items[i].weight for i in batch)
        passes = batching.shard(batch, self.dist.rank, self.dist.world, self.cfg.micro_batch)
        total = torch.zeros((), device=self.dist.device)
        for number, positions in enumerate(passes, start=1):
            exchanges = self.dist.world == 1 or number == len(passes)
            with nullcontext() if exchanges else self.forward.no_sync():  # type: ignore[operator]
                with autocast(self.precision, self.dist.device):
                    share = self.forward(self._batch(positions)) / weight
                self.learner.backward(share * self.dist.world)  # DDP takes the mean over ranks where a sum is wanted
            total += share.detach()
        self.learner.before_step(step, self.steps)
        self.norms.before_update(step)
        if self.cfg.clip:
            nn.utils.clip_grad_norm_(list(self.names), self.cfg.clip)
        optim.set_lr(self.optimizer, self._factor(step))
        self.optimizer.step()
        self.learner.after_step(step, self.steps)
        self.norms.after_update(step)
        self.optimizer.zero_grad()
        return total

    def due(self, step: int, every: int | None) -> bool:
        """Whether something done every so many steps, and at the end, comes after the 1-based `step`."""
        return step == self.steps or bool(every and step % every == 0)

    def rates(self, step: int) -> dict[str, float]:
        """`lr/<group>` -> the rate that the 1-based `step` used."""
        factor = self._factor(step - 1)
        return {f"lr/{name}": peak * (1.0 if name in self.constant else factor) for name, peak in self.lr.items()}

    def damage(self, step: int) -> str:
        """Which trained parameter is not finite any more, in words, or ""."""
        bad = next((name for p, name in self.names.items() if not torch.isfinite(p).all()), None)
        return f"the trained parameter {bad} is not finite after step {step}" if bad else ""

    def fingerprint(self) -> str:
        """What a checkpoint must share with this training to be a point on its way."""
        keys = ("batch_size", "schedule", "warmup", "clip", "dropout", "eval_every", "patience")
        facts: dict[str, Any] = {
            "config": {key: getattr(self.cfg, key) for key in keys},
            "backbone": self.learner.backbone.revision,
            "run": [self.steps, self.seed, self.precision, self.lr, self.weight_decay],
            "items": [[item.id, item.length, item.weight] for item in self.items],
            "parameters": {name: list(p.shape) for p, name in self.names.items()},
        }
        if self.shares is not None:
            facts["shares"] = self.shares
        if self.repeats != 1:
            facts["repeats"] = self.repeats
        if self.course.steps != self.steps:
            facts["course"] = [self.course.done, self.course.steps]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _factor(self, step: int) -> float:
        return optim.lr_factor(self.course.done + step, self.course.steps, self.cfg.warmup, self.cfg.schedule)

    def _batch(self, positions: Sequence[int]) -> Batch | None:
        return (
            to_device(self.learner.collate([self.items[i] for i in positions]), self.dist.device) if positions else None
        )

    def _distributed(self) -> DistributedDataParallel:
        """The learner under DDP, equal on all ranks. One item shows which parameters a loss reaches at all (a pooler
        that the head does not read has no gradient), for DDP searches the graph of every step only where it must."""
        with autocast(self.precision, self.dist.device):
            self.learner(self._batch(self.plan[0][:1])).backward()
        reached = [p for p in self.names if p.grad is not None]
        self.optimizer.zero_grad()
        for parameter in self.names:
            torch_dist.broadcast(parameter.data, src=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name in newer torch
            return DistributedDataParallel(
                _Participant(self.learner, reached),
                broadcast_buffers=False,
                init_sync=False,  # the frozen weights came from one file, and the trained ones were just sent
                find_unused_parameters=len(reached) < len(self.names),
            )


def _result(engine: _Engine, progress: LoopProgress) -> TrainResult:
    """What to tell of the training; a long curve is thinned."""
    stride = math.ceil(progress.step / CURVE_POINTS)
    ends = [min(start + stride, progress.step) for start in range(0, progress.step, stride)]
    curves: dict[str, list] = {
        "step": ends,
        "loss": [float(np.mean(progress.losses[max(0, e - stride) : e])) for e in ends],
    }
    for end in ends:
        for name, rate in engine.rates(end).items():
            curves.setdefault(name, []).append(rate)
    return TrainResult(
        status="diverged" if progress.reason else "done",
        steps=progress.step,
        tokens=sum(engine.items[i].length for batch in engine.plan[: progress.step] for i in batch),
        seconds=progress.seconds,
        curves={**curves, "dev_step": progress.dev_steps, "dev": progress.dev_scores, **progress.norms},
        best_step=progress.best_step,
        dev_score=None if progress.best_step is None else progress.best_score,
        reason=progress.reason,
        passes=Counter(engine.items[i].id for batch in engine.plan[: progress.step] for i in batch),
    )


class _Participant(nn.Module):
    """A learner that takes part in the exchange of gradients even when its rank has no items in a batch."""

    def __init__(self, learner: Learner, reached: Sequence[Tensor]) -> None:
        super().__init__()
        self.learner = learner
        self._reached = tuple(reached)

    def forward(self, batch: Batch | None) -> Tensor:
        if batch is None:
            return torch.stack([parameter.sum() * 0.0 for parameter in self._reached]).sum()
        return self.learner(batch)


def _exchange(unread: Sequence[Tensor], told: bool, dist: Dist) -> tuple[list[float], bool]:
    """The losses of the steps since the last reading, over all ranks, and whether any rank was told to stop."""
    *losses, stops = dist.sum(torch.stack([*unread, unread[0].new_tensor(float(told))])).tolist()
    return losses, stops > 0


def _seed_everything(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Every generator that a module may use, as a function of the step."""
    state = int(np.random.SeedSequence([seed % 2**32, step, rank]).generate_state(1)[0])
    # Not torch.manual_seed: without a GPU it queues a call with a formatted traceback each time (0.6 ms, never freed).
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        torch.cuda.manual_seed(state)
    random.seed(state)
    np.random.seed(state)


@contextmanager
def _gradient_checkpointing(learner: Learner, wanted: bool) -> Iterator[None]:
    """Recompute activations of the backbone's layers in the backward pass: less memory, about a third more compute."""
    if not wanted:
        yield
        return
    model = learner.backbone.model
    if not model.supports_gradient_checkpointing:
        raise UsageError(
            f"trainer.gradient_checkpointing=true: {type(model).__name__} does not support it; set it to false."
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
