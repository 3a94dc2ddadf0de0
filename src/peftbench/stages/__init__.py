"""How a method is trained: a list of stages, each taking what the one before it left.

A stage is a function `(context, incoming) -> Predictor`. `incoming` is the previous stage's predictor, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
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
    "none": "peftbench.stages.supervised:untrained",
}
"""Stage name -> where it lives; imported when it runs, so that a floor never loads torch."""


def get_stage(name: str) -> Stage:
    """The stage function of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in STAGES:
        raise UsageError(f"method.stages: `{name}` is no stage. {did_you_mean(name, STAGES)}")
    module, function = STAGES[name].split(":")
    return getattr(import_module(module), function)
