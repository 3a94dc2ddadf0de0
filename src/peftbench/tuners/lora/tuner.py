"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) with rsLoRA and DoRA as switches; peft's implementation."""

from __future__ import annotations

import peft
from torch import nn

from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.lora import LoraOptions
from peftbench.tuners.matrices import Choice, has_transposed, matrix_names, matrix_shapes
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.positions import count_real_positions
from peftbench.tuners.ranks import Rank, rank_of_updates


class LoraTuner(PeftTuner):
    """y = W x + scale B A dropout(x) on chosen matrices, B = 0 at the start. Group `lora`.

    scale is alpha / r, or alpha / sqrt(r) with `rslora`. Trainable: r (in + out) per matrix, and its `out` column
    magnitudes with `dora`.
    """

    group = "lora"
    identity_at_start = "base"
    budget_knob = "rank"
    cfg: LoraOptions

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        targets = self.target_modules(backbone)
        config = peft.LoraConfig(
            task_type=task_type(backbone),
            r=self.cfg.rank,
            lora_alpha=self.cfg.alpha,  # type: ignore[arg-type]  # a float works
            lora_dropout=self.cfg.dropout,
            target_modules=targets,
            fan_in_fan_out=has_transposed(backbone, targets),
            use_rslora=self.cfg.rslora,
            use_dora=self.cfg.dora,
        )
        if backbone.family == "causal":
            count_real_positions(backbone.model)
        return wrap(backbone, config, context.seed)

    def target_modules(self, backbone: Backbone) -> list[str]:
        """Names of the matrices to adapt; see `matrix_names`."""
        return matrix_names(backbone, Choice(self.cfg.target_modules, self.cfg.target, self.cfg.layers))

    def ranks(self, backbone: Backbone, context: TunerContext) -> list[Rank]:
        shapes = matrix_shapes(backbone, self.target_modules(backbone))
        return rank_of_updates("rank", self.cfg.rank, shapes)

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        shapes = matrix_shapes(backbone, self.target_modules(backbone))
        return sum(self.cfg.rank * (out + inner) + (out if self.cfg.dora else 0) for out, inner in shapes.values())
