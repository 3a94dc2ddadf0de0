"""The trick `label_smoothing`: a share of each target goes to all classes alike (Szegedy et al., CVPR 2016, arXiv
1512.00567, section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftbench.config.schema import TrickConfig, number, packaged
from peftbench.stages.tricks.base import Trick, always

if TYPE_CHECKING:
    from peftbench.formulations.base import Encoded


@packaged("method/trick/label_smoothing", "label_smoothing")
@dataclass
class LabelSmoothingOptions(TrickConfig):
    """`method.trick.label_smoothing`."""

    share: float = number(ge=0, le=1)


def smoothed(training: Any, items: Sequence[Encoded], options: LabelSmoothingOptions) -> list[Encoded]:
    """Targets (1 - share) t + share / classes, t being what earlier tricks have made of the labels."""
    from peftbench.formulations.soft_targets import SOFT_TARGETS, with_soft_target

    def smooth(target: Any) -> Any:
        return (1 - options.share) * target + options.share / len(target)

    return [with_soft_target(item, smooth(item.data[SOFT_TARGETS])) for item in training.classes_of(items)]


TRICK = Trick(
    LabelSmoothingOptions,
    targets=smoothed,
    neutral=lambda options: options.share == 0,
    needs_scores=always,
    problems=frozenset({"classification"}),
    order=1,
)
