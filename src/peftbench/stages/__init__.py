"""How a method is trained: a list of stages, each taking what the one before it left.

A stage is a function `(context, incoming) -> Predictor`. `incoming` is the previous stage's predictor, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from peftbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from peftbench.stages.base import Context, Predictor

    Stage = Callable[[Context, Predictor | None], Predictor]

STAGES = {
    "supervised": "peftbench.stages.supervised:supervised",
    "calibration": "peftbench.stages.calibration:calibration",
    "classical": "peftbench.stages.classical:classical",
    "self_training": "peftbench.stages.self_training:self_training",
    "continued_pretraining": "peftbench.stages.continued_pretraining:continued_pretraining",
    "ensemble": "peftbench.stages.ensemble:ensemble",
    "distillation": "peftbench.stages.distillation:distillation",
    "none": "peftbench.stages.supervised:untrained",
}
"""Stage name -> where it lives; imported when it runs, so that a floor never loads torch."""


def get_stage(name: str) -> Stage:
    """The stage function of that name.

    Raises:
        UsageError: there is none.
    """
    return getattr(_module(name), STAGES[name].split(":")[1])


def check_stages(names: Sequence[str], context: Context) -> None:
    """Ask every stage, before the first one trains, whether it can do its part: a stage's module may have a function
    `check_run(context)`.

    Raises:
        UsageError: there is no such stage, or one of them cannot.
    """
    for name in names:
        getattr(_module(name), "check_run", lambda _: None)(context)


def _module(name: str) -> ModuleType:
    if name not in STAGES:
        raise UsageError(f"method.stages: `{name}` is no stage. {did_you_mean(name, STAGES)}")
    return import_module(STAGES[name].split(":")[0])
