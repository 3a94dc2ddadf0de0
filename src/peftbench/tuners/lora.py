"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) with rsLoRA and DoRA as switches; peft's implementation."""

from __future__ import annotations

import peft
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.config.tuners import LoraConfig
from peftbench.errors import UsageError, did_you_mean
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.positions import count_real_positions


class LoraTuner(PeftTuner):
    """y = W x + scale B A dropout(x) on chosen matrices, B = 0 at the start. Group `lora`.

    scale is alpha / r, or alpha / sqrt(r) with `rslora`. Trainable: r (in + out) per matrix, and its `out` column
    magnitudes with `dora`.
    """

    group = "lora"
    identity_at_start = "base"
    budget_knob = "rank"
    cfg: LoraConfig

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
        return matrix_names(backbone, self.cfg.target_modules)

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        shapes = matrix_shapes(backbone, self.target_modules(backbone))
        return sum(self.cfg.rank * (out + inner) + (out if self.cfg.dora else 0) for out, inner in shapes)


def matrix_names(backbone: Backbone, chosen: list[str] | None) -> list[str]:
    """The chosen names of matrices, or the usual ones of the architecture.

    Raises:
        UsageError: a chosen name fits no matrix, or the architecture has no usual ones.
    """
    matrices = sorted({name.rpartition(".")[2] for name, m in backbone.model.named_modules() if is_matrix(m)})
    architecture = backbone.model.config.model_type
    if chosen is None:
        usual = {"albert": ["query", "value"], **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING}
        if architecture not in usual:
            raise UsageError(
                f"method.tuner.target_modules: no default for the architecture `{architecture}` "
                f"(model={backbone.name}). Choose some of: {', '.join(matrices)}."
            )
        chosen = list(usual[architecture])
    for name in chosen:
        if not any(is_target(full, name) for full, m in backbone.model.named_modules() if is_matrix(m)):
            raise UsageError(
                f"method.tuner.target_modules: no matrix of model={backbone.name} is called `{name}`. "
                f"{did_you_mean(name, matrices)}"
            )
    return chosen


def matrix_shapes(backbone: Backbone, names: list[str]) -> list[tuple[int, int]]:
    """(out, in) of every matrix that one of `names` stands for."""
    found = [
        module
        for full, module in backbone.model.named_modules()
        if is_matrix(module) and any(is_target(full, name) for name in names)
    ]
    shapes = [(tuple(m.weight.shape), isinstance(m, Conv1D)) for m in found]
    return [(b, a) if transposed else (a, b) for (a, b), transposed in shapes]


def has_transposed(backbone: Backbone, names: list[str]) -> bool:
    """Whether one of `names` stands for a matrix that GPT-2 stores with its axes swapped."""
    return any(
        isinstance(module, Conv1D) and any(is_target(full, name) for name in names)
        for full, module in backbone.model.named_modules()
    )


def is_matrix(module: nn.Module) -> bool:
    """A weight matrix that LoRA can sit beside: a Linear, or GPT-2's transposed one."""
    return isinstance(module, (nn.Linear, Conv1D))


def is_target(full_name: str, target: str) -> bool:
    """peft's rule: a name, or the end of one after a dot. A matrix that peft has wrapped already counts as itself."""
    full_name = full_name.removesuffix(".base_layer")
    return full_name == target or full_name.endswith(f".{target}")
