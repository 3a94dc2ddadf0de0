"""The trick `transductive`: what the model is sure of on unlabelled texts is learned too. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from peftbench.config.schema import TrickConfig, number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.stages.tricks.base import Trick, always

if TYPE_CHECKING:
    from peftbench.stages.base import Context


@packaged("method/trick/transductive", "transductive")
@dataclass
class TransductiveOptions(TrickConfig):
    """`method.trick.transductive`."""

    mode: str = one_of("semi", "transductive")
    threshold: float = number(ge=0)
    weight: float = number(ge=0)
    pool: int | None = number(ge=1)
    balanced: bool = MISSING
    temperature: float | None = number(gt=0)
    length: float = number(gt=0)
    lr: float = number(gt=0)


def check(options: TransductiveOptions, context: Context) -> None:
    """Raises UsageError if there are no unlabelled texts."""
    if options.mode == "semi" and not context.draw.unlabeled:
        raise UsageError(
            f"method.trick.transductive.mode=semi: no unlabelled rows are left under shots={context.cfg.shots}. Use "
            "fewer shots (train rows that are not drawn are the unlabelled ones), or mode=transductive, which takes "
            "the texts of test and is marked in every table."
        )


TRICK = Trick(
    TransductiveOptions,
    afterwards="peftbench.stages.tricks.transductive.pseudo:transductive",
    neutral=lambda options: options.threshold > 1 or options.weight == 0,
    needs_scores=always,
    problems=frozenset({"classification"}),
    check=check,
    sees_test=lambda options: options.mode == "transductive",
)
