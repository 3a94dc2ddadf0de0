"""BitFit: only the biases are trained (Ben Zaken, Goldberg and Ravfogel, ACL 2022, arXiv 2106.10199)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.anatomy.names import is_norm
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.bitfit import BitfitOptions
from peftbench.tuners.selective import SelectiveTuner


class BitfitTuner(SelectiveTuner):
    """Trains the bias vectors of linear maps and norms. Group `bias`.

    biases=all takes each of them, biases=query_mlp the paper's smaller choice: the query's and that of the first
    matrix of the feed-forward (in GPT-2 the query is part of one fused matrix, whose whole bias is trained).

    T5, Llama and most decoders since have no biases. `add_missing` gives every linear map (the language-model head
    too, as the count of 280K on t5-base in the literature implies) and every norm a bias that starts at zero, so the
    backbone starts as it is. A map without a bias of its own can only take it over by keeping it.
    """

    group = "bias"
    cfg: BitfitOptions

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        self.select(backbone)

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        if self.cfg.add_missing:
            for module in self.modules(backbone):
                if getattr(module, "bias", None) is None:
                    add_bias(module)
        return super().build(backbone, context)

    def modules(self, backbone: Backbone) -> list[nn.Module]:
        """The linear maps and norms whose biases count; other modules keep theirs (a few heads have one)."""
        if self.cfg.biases == "query_mlp":
            return [backbone.model.get_submodule(s.inlet) for s in backbone.anatomy.sublayers()]
        return [m for m in backbone.model.modules() if isinstance(m, nn.Linear) or is_norm(m)]

    def select(self, backbone: Backbone) -> list[nn.Parameter]:
        owners = self.modules(backbone) if self.cfg.biases == "query_mlp" else backbone.model.modules()
        found = [p for m in owners for n, p in m.named_parameters(recurse=False) if n == "bias"]
        if not found and not self.cfg.add_missing:
            raise UsageError(
                f"method={self.cfg.name}: model={backbone.name} has no bias to train. Set "
                "method.tuner.add_missing=true to add biases that start at zero, or choose another backbone."
            )
        return list(dict.fromkeys(found))

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        """One number for each output of a linear map and each channel of a norm that has a bias or is given one."""
        missing = [m for m in self.modules(backbone) if getattr(m, "bias", None) is None]
        added = sum(len(zeros_for(m)) for m in missing) if self.cfg.add_missing else 0
        return added + sum(p.numel() for p in self.select(backbone))


def add_bias(module: nn.Module) -> None:
    """Give a linear map or a norm a bias of zeros. A Linear adds it by itself, a norm by a hook: one vector each."""
    module.register_parameter("bias", nn.Parameter(zeros_for(module)))
    if not isinstance(module, nn.Linear):
        module.register_forward_hook(add_to_output)


def zeros_for(module: nn.Module) -> Tensor:
    """(out,) zeros, one for each output of a linear map or channel of a norm, in the format of its weight."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.new_zeros(len(weight))


def add_to_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: the module's bias on top of its output."""
    assert isinstance(module.bias, Tensor)
    return output + module.bias
