"""The trick `child_tuning`: gradients outside a child network are masked, whatever the tuner trains. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.config.schema import TrickConfig, number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.stages.tricks.base import Trick

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig


@packaged("method/trick/child_tuning", "child_tuning")
@dataclass
class ChildOptions(TrickConfig):
    """`method.trick.child_tuning`; over `method=full` it is `method=child_tuning`."""

    variant: str = one_of("D", "F")
    reserve: float = number(gt=0, le=1)


def fits(options: ChildOptions, run: RunConfig) -> None:
    """Raises UsageError if the tuner masks already."""
    if run.method.tuner.name == "child_tuning":
        raise UsageError(
            f"method.trick.child_tuning: method={run.method.name} is Child-Tuning itself. Use method=full."
        )


TRICK = Trick(
    ChildOptions,
    steps="peftbench.stages.tricks.child_tuning.masking:Masking",
    neutral=lambda options: options.reserve == 1,
    fits=fits,
)
