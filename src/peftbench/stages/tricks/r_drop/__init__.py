"""The trick `r_drop`: two passes under different dropout must agree. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.config.schema import TrickConfig, number, packaged
from peftbench.errors import UsageError
from peftbench.stages.tricks.base import Trick, always

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

NO_DROPOUT = (
    "method.trick.r_drop: compares two passes under different dropout, and nothing is dropped out{why}. Set "
    "trainer.dropout=0.1."
)


@packaged("method/trick/r_drop", "r_drop")
@dataclass
class RDropOptions(TrickConfig):
    """`method.trick.r_drop`."""

    alpha: float = number(ge=0)


def fits(options: RDropOptions, run: RunConfig) -> None:
    """Raises UsageError if every dropout of the config is 0."""
    method = run.method
    own = (getattr(method.tuner, name, 0.0) for name in ("dropout", "token_dropout"))
    if not any(place is None or place > 0 for place in (run.trainer.dropout, method.formulation.dropout, *own)):
        raise UsageError(NO_DROPOUT.format(why=" (trainer.dropout=0)"))


TRICK = Trick(
    RDropOptions,
    loss="peftbench.stages.tricks.r_drop.two_passes:r_drop",
    steps="peftbench.stages.tricks.r_drop.two_passes:NeedsDropout",
    neutral=lambda options: options.alpha == 0,
    needs_scores=always,
    fits=fits,
    order=1,
)
