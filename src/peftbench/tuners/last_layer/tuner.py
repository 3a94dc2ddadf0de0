"""The last blocks alone are trained."""

from __future__ import annotations

from torch import nn

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.last_layer import LastLayerOptions
from peftbench.tuners.selective import SelectiveTuner
from peftbench.tuners.sublayers import find_blocks


class LastLayerTuner(SelectiveTuner):
    """The last block, or `layers` of them; of an encoder-decoder the decoder's (Zlotchevski et al., ESEC/FSE 2022,
    arXiv 2208.13928: the lightweight variant "last decoder block"). Group `last_layer`.

    The backward pass ends at the first trained block.
    """

    group = "last_layer"
    cfg: LastLayerOptions

    def select(self, backbone: Backbone) -> list[nn.Parameter]:
        blocks = find_blocks(backbone.model)
        stack = next(reversed(blocks)).rpartition(".")[0]
        candidates = [block for name, block in blocks.items() if name.rpartition(".")[0] == stack]
        if self.cfg.layers > len(candidates):
            raise UsageError(
                f"method.tuner.layers={self.cfg.layers}: model={backbone.name} has {len(candidates)} in `{stack}`. "
                f"Use method.tuner.layers={len(candidates)} or less."
            )
        return [p for block in candidates[-self.cfg.layers :] for p in block.parameters()]
