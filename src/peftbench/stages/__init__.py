"""How a method is trained: a list of stages, each taking what the one before it left.

A stage is a function `(context, incoming) -> Predictor`, declared by a `peftbench.stages.base.Stage`. `incoming` is the
previous stage's predictor, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftbench.config import registry

if TYPE_CHECKING:
    from peftbench.stages.base import Context, Stage


def get_stage(name: str) -> Stage:
    """The stage of that name, of a file or of `module:OBJECT`; nothing that it needs is imported yet.

    Raises:
        UsageError: there is none.
    """
    return registry.get("stage", name)


def stages_of(names: Sequence[str]) -> list[Stage]:
    """The stages of `method.stages`.

    Raises:
        UsageError: one of them is not there.
    """
    return [get_stage(name) for name in names]


def check_stages(names: Sequence[str], context: Context) -> None:
    """Ask every stage, before the first one trains, whether it can do its part.

    Raises:
        UsageError: there is no such stage, or one of them cannot.
    """
    for stage in stages_of(names):
        stage.check_run(context)
