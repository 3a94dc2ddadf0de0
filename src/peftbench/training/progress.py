"""What a person sees while a training runs: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVAL_SECONDS = 15.0
"""Seconds between the plain lines of a long evaluation."""
LINES = 10
"""Plain lines in a whole training, those of dev evaluations apart."""


class Silent:
    """Shows nothing: other ranks, or `trainer.progress=false`."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def step(self, step: int, loss: float, said: str = "") -> None:
        """`step` optimiser steps are done; the last one's mean loss was `loss`, and `said` is what else to tell."""

    def dev(self, step: int, score: float) -> None:
        """An evaluation on dev gave `score`."""

    def batch(self, done: int) -> None:
        """`done` batches of an evaluation are answered."""


class Bar(Silent):
    """A live bar with loss, dev score and time left."""

    live = False
    """Whether one is on the screen now; a terminal shows one at a time."""

    def __init__(self, steps: int, start: int, console: Console) -> None:
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]} · dev {task.fields[dev]}{task.fields[said]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("train", total=steps, completed=start, loss="-", dev="-", said="")

    def __enter__(self) -> Bar:
        self._bar.start()
        Bar.live = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()
        Bar.live = False

    def step(self, step: int, loss: float, said: str = "") -> None:
        self._bar.update(self._task, completed=step, loss=f"{loss:.3f}", said=f" · {said}" if said else "")

    def dev(self, step: int, score: float) -> None:
        self._bar.update(self._task, dev=f"{score:.3f}")


class Lines(Silent):
    """Sparse lines on standard error, for logs."""

    def __init__(self, steps: int, start: int) -> None:
        self._steps = steps
        self._first = self._done = start
        self._began = time.monotonic()

    def step(self, step: int, loss: float, said: str = "") -> None:
        if step * LINES // self._steps > self._done * LINES // self._steps:
            left = (time.monotonic() - self._began) / (step - self._first) * (self._steps - step)
            told = f"  {said}" if said else ""
            print(f"step {step}/{self._steps}  loss {loss:.4f}{told}  {left:.0f} s left", file=sys.stderr, flush=True)
        self._done = step

    def dev(self, step: int, score: float) -> None:
        print(f"step {step}/{self._steps}  dev {score:.4f}", file=sys.stderr, flush=True)


def reporter(shown: bool, steps: int, start: int) -> Silent:
    """The right one for this process and this standard error."""
    console = Console(stderr=True)
    if not shown:
        return Silent()
    return Bar(steps, start, console) if console.is_terminal else Lines(steps, start)


class EvaluationBar(Silent):
    """A bar that is gone when the evaluation is over."""

    def __init__(self, batches: int, console: Console) -> None:
        columns = (TextColumn("eval"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, refresh_per_second=4, transient=True)
        self._task = self._bar.add_task("eval", total=batches)

    def __enter__(self) -> EvaluationBar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def batch(self, done: int) -> None:
        self._bar.update(self._task, completed=done)


class EvaluationLines(Silent):
    """A line now and then, of an evaluation that takes long."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._began = self._said = time.monotonic()

    def batch(self, done: int) -> None:
        now = time.monotonic()
        if now - self._said >= EVAL_SECONDS:
            left = (now - self._began) / done * (self._batches - done)
            print(f"eval {done}/{self._batches} batches  {left:.0f} s left", file=sys.stderr, flush=True)
            self._said = now


def evaluation_reporter(shown: bool, batches: int) -> Silent:
    """The right one for predictions in so many batches; silent under a training's bar."""
    if not shown or Bar.live:
        return Silent()
    console = Console(stderr=True)
    return EvaluationBar(batches, console) if console.is_terminal else EvaluationLines(batches)
