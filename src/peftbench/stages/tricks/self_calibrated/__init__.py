"""The trick `self_calibrated`: labels are believed less that models contradict which have not seen them. Declared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.config.schema import TrickConfig, number, packaged
from peftbench.errors import UsageError
from peftbench.stages.tricks.base import Trick, always

if TYPE_CHECKING:
    from peftbench.stages.base import Context


@packaged("method/trick/self_calibrated", "self_calibrated")
@dataclass
class SelfCalibratedOptions(TrickConfig):
    """`method.trick.self_calibrated`."""

    folds: int = number(ge=2)
    lambda_max: float = number(ge=0, le=1)
    lambda_min: float = number(ge=0, le=1)
    threshold: float = number(ge=0, le=1)
    temperature: float | None = number(gt=0)


def check(options: SelfCalibratedOptions, context: Context) -> None:
    """Raises UsageError where a class has one row only: who has not seen it has not seen its class."""
    counts = Counter(str(row.target) for row in context.draw.train)
    single = [label for label, count in counts.items() if count < 2]
    if single:
        raise UsageError(
            f"method.trick.self_calibrated: class `{single[0]}` has a single train row, which no model that has not "
            "seen it could judge. Use more shots."
        )


TRICK = Trick(
    SelfCalibratedOptions,
    targets="peftbench.stages.tricks.self_calibrated.folds:calibrated",
    neutral=lambda options: options.lambda_max == options.lambda_min == 0,
    needs_scores=always,
    problems=frozenset({"classification"}),
    check=check,
)
