"""The weight matrices of a backbone that an update can sit beside: their names, shapes and usual choice."""

from __future__ import annotations

from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import UsageError, did_you_mean
from peftbench.models.base import Backbone


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
