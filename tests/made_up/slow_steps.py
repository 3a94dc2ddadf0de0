"""A trick for tests that kill, stop or cut off a training: it cannot be over before that, on a machine however fast,
nor while the test is held up. From a step on each step takes a second, until a file is there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.config.schema import TrickConfig, number
from peftbench.stages.tricks.base import Trick


@dataclass
class SlowStepsOptions(TrickConfig):
    """`method.trick.slow`: how many steps are quick, and the file that makes the others quick as well."""

    after: int = number(0, ge=0)
    until: str = ""


def slow_steps(_learner: Any, options: SlowStepsOptions, _seed: int) -> Any:
    """The hook between the steps."""
    from peftbench.stages.tricks.training import Hook

    class SlowSteps(Hook):
        def after_step(self, step: int, steps: int) -> None:
            if step >= options.after and not Path(options.until).exists():
                time.sleep(1.0)

    return SlowSteps()


TRICK = Trick(SlowStepsOptions, steps=slow_steps)


def slow_after(step: int, until: Path) -> list[str]:
    """The words of a command that make its steps slow after `step`, until there is such a file."""
    trick = {"name": Path(__file__), "after": step, "until": until}
    return [f"+method.trick.slow.{key}={value}" for key, value in trick.items()]
