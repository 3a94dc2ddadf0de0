"""Child-Tuning (Xu et al., EMNLP 2021, arXiv 2109.05687): only a part of the gradient reaches the weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.child_tuning import ChildTuningOptions
from peftbench.tuners.child_tuning.network import ChildNetwork
from peftbench.tuners.plain import FullTuner


class ChildTuningTuner(FullTuner):
    """Full fine-tuning whose gradients are masked in every step (`network.ChildNetwork`). Group `backbone`."""

    cfg: ChildTuningOptions

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        model = super().build(backbone, context)
        blocks = tuple(f"{block.name}." for block in anatomy_of(backbone.model).blocks())
        in_blocks = {name: p for name, p in model.named_parameters() if name.startswith(blocks)}
        own = dict(model.named_parameters())
        self.child = ChildNetwork(self.cfg.variant, self.cfg.reserve, context.seed, own, in_blocks)
        return model

    @property
    def masks(self) -> dict[str, Tensor]:
        """Of variant D: name -> which of a tensor's weights the gradient reaches."""
        return self.child.masks

    def before_training(self, model: nn.Module, gradients: Iterable[int]) -> None:
        self.notes = list(dict.fromkeys([*self.notes, *self.child.choose(gradients)]))

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        self.child.mask(step)
