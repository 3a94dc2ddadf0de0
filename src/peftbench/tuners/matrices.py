"""The weight matrices of a backbone that an update can sit beside: their names, shapes and usual choice."""

from __future__ import annotations

from dataclasses import dataclass

from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import UsageError, did_you_mean
from peftbench.models.anatomy.choose import is_matrix, is_target, names_of_roles, unmistakable
from peftbench.models.base import Backbone
from peftbench.tuners.layerwise import in_layers


@dataclass(frozen=True)
class Choice:
    """Which matrices a user wants.

    Attributes:
        names: of modules, or ends of such; None: not chosen by name.
        target: a group of `peftbench.models.anatomy.parts.TARGETS`; None: peft's own choice for the architecture, else
            queries and values.
        layers: see `chosen_blocks`.
    """

    names: list[str] | None = None
    target: str | None = None
    layers: str = "all"


def matrix_names(backbone: Backbone, choice: Choice) -> list[str]:
    """The chosen names of matrices, or the usual ones of the architecture.

    Raises:
        UsageError: a chosen name fits no matrix, or names and target are both given.
    """
    if choice.names is not None and choice.target is not None:
        raise UsageError(
            f"method.tuner.target={choice.target} and method.tuner.target_modules are both set. Leave one at null."
        )
    usual = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(backbone.model.config.model_type)
    if choice.names is not None:
        names = checked(backbone, choice.names)
    elif choice.target is None and isinstance(usual, list):
        names = list(usual)
    else:
        return names_of_roles(backbone.model, choice.target or "attention.qv", choice.layers)
    if choice.layers == "all":
        return names
    return unmistakable(backbone.model, in_layers(backbone, choice.layers, matched(backbone, names)))


def checked(backbone: Backbone, names: list[str]) -> list[str]:
    """`names`, if each of them is a matrix's."""
    matrices = [name for name, module in backbone.model.named_modules() if is_matrix(module)]
    for name in names:
        if not any(is_target(full, name) for full in matrices):
            ends = sorted({full.rpartition(".")[2] for full in matrices})
            raise UsageError(
                f"method.tuner.target_modules: no matrix of model={backbone.name} is called `{name}`. "
                f"{did_you_mean(name, ends)}"
            )
    return list(names)


def matched(backbone: Backbone, names: list[str]) -> dict[str, nn.Module]:
    """Full name -> matrix that one of `names` stands for. Peft's wrapper of one may be a matrix itself."""
    return {
        full.removesuffix(".base_layer"): module
        for full, module in backbone.model.named_modules()
        if is_matrix(module) and any(is_target(full, name) for name in names)
    }


def matrix_shapes(backbone: Backbone, names: list[str]) -> dict[str, tuple[int, int]]:
    """Full name -> (out, in) of every matrix that one of `names` stands for."""
    found = matched(backbone, names).items()
    shapes = [(name, tuple(m.weight.shape), isinstance(m, Conv1D)) for name, m in found]  # type: ignore[arg-type]
    return {name: (b, a) if transposed else (a, b) for name, (a, b), transposed in shapes}


def has_transposed(backbone: Backbone, names: list[str]) -> bool:
    """Whether one of `names` stands for a matrix that GPT-2 stores with its axes swapped."""
    return any(isinstance(module, Conv1D) for module in matched(backbone, names).values())
