"""A tuner: only the position embeddings are trained. Group `positions`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from peftbench.config.schema import TunerConfig, number
from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.selective import SelectiveTuner


@dataclass
class PositionsOptions(TunerConfig):
    """`method.tuner.options`, with defaults and ranges."""

    tables: int = number(1, ge=1)


class PositionsTuner(SelectiveTuner):
    """The first `tables` tables of position embeddings. What is saved and loaded is the base class's business."""

    options = PositionsOptions
    families = frozenset({"encoder"})
    group = "positions"

    def select(self, backbone: Backbone) -> list[nn.Parameter]:
        named = backbone.model.named_parameters()
        found = [parameter for name, parameter in named if "position_embeddings" in name][: self.cfg.tables]
        if not found:
            raise UsageError(f"model={backbone.name} has no table of position embeddings.")
        return found


TUNER = PositionsTuner
