"""What a trick declares of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftbench.config.schema import TrickConfig

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.stages.base import Context


def never(_options: Any) -> bool:
    """False."""
    return False


def always(_options: Any) -> bool:
    """True."""
    return True


def nothing_to_say(_options: Any, _about: Any) -> None:
    """No objection."""


@dataclass(frozen=True)
class Trick:
    """A trick's declaration. The module that makes it, as the constant `TRICK`, imports nothing heavy. What it does is
    one or more of four functions, each the function itself or where it is, "module:function".

    Attributes:
        options: dataclass of `method.trick.NAME`.
        targets: `(training, items, options) -> items`, before the training: other targets for the drawn rows. What it
            trains for that is a part of the stage (`training.Training`).
        loss: `(passes, options, loss) -> Tensor`, in every forward pass: the sum of a batch's losses. `loss()` is what
            it would be without the trick, which need not be asked for.
        steps: `(learner, options, seed) -> Hook` (`training.Hook`), at work between the steps of one training.
        afterwards: `(training, items, options) -> None`, behind the training on the labelled rows.
        neutral: whether the options change nothing; such a trick is left out when the config is composed.
        needs_scores: whether it works on a row's class scores.
        problems: kinds of targets that it is made for; empty: any.
        fits: `fits(options, config)`, asked when a config is composed; raises UsageError.
        check: `check(options, context)`, asked before anything is trained; raises UsageError.
        sees_test: whether it looks at the texts of test. Every table then says so.
        order: tricks of a lower order come first.
        results_version: raised when the same keys would give other numbers; renames the runs that have the trick.
    """

    options: type[TrickConfig]
    targets: Callable[..., Any] | str | None = None
    loss: Callable[..., Any] | str | None = None
    steps: Callable[..., Any] | str | None = None
    afterwards: Callable[..., Any] | str | None = None
    neutral: Callable[[Any], bool] = never
    needs_scores: Callable[[Any], bool] = never
    problems: frozenset[str] = frozenset()
    fits: Callable[[Any, RunConfig], None] = nothing_to_say
    check: Callable[[Any, Context], None] = nothing_to_say
    sees_test: Callable[[Any], bool] = never
    order: int = 0
    results_version: int = 1
