"""The last blocks alone are trained."""

from __future__ import annotations

from torch import nn

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.last_layer import LastLayerOptions
from peftbench.tuners.selective import SelectiveTuner


class LastLayerTuner(SelectiveTuner):
    """The last block, or `layers` of them; of an encoder-decoder the decoder's (Zlotchevski et al., ESEC/FSE 2022,
    arXiv 2208.13928: the lightweight variant "last decoder block"). Group `last_layer`.

    The backward pass ends at the first trained block. Where layers share one block (ALBERT), that is all of them.
    """

    group = "last_layer"
    cfg: LastLayerOptions

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        self.select(backbone)

    def select(self, backbone: Backbone) -> list[nn.Parameter]:
        stack = backbone.anatomy.last
        if self.cfg.layers > len(stack.blocks):
            raise UsageError(
                f"method.tuner.layers={self.cfg.layers}: the {stack.kind} of model={backbone.name} has "
                f"{len(stack.blocks)} blocks of its own. Use method.tuner.layers={len(stack.blocks)} or less."
            )
        blocks = [backbone.model.get_submodule(block.name) for block in stack.blocks[-self.cfg.layers :]]
        return [p for block in blocks for p in block.parameters()]
