"""Tuners that train some of the backbone's own tensors where they are: no new module, no cost at inference.

The tensors keep the backbone's number format, unlike an adapter's, which are fp32.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.positions import count_real_positions

WEIGHTS = "backbone_part.safetensors"


class SelectiveTuner(Tuner):
    """Everything is frozen but what `select` chooses. One parameter group, named by `group`."""

    group: ClassVar[str]
    identity_at_start = "base"

    @abstractmethod
    def select(self, backbone: Backbone) -> list[nn.Parameter]:
        """The parameters to train, each once. Raises UsageError if the backbone has none of the kind."""

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        model = backbone.model.requires_grad_(False)
        for parameter in self.select(backbone):
            parameter.requires_grad_(True)
        if backbone.family == "causal":
            count_real_positions(model)
        return model

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {self.group: [p for p in model.parameters() if p.requires_grad]}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        return sum(p.numel() for p in self.select(backbone))

    def save(self, model: nn.Module, folder: Path) -> None:
        """`backbone_part.safetensors`: the trained tensors under the backbone's own names; a tied one once."""
        save_part({n: p for n, p in model.named_parameters() if p.requires_grad}, folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        load_part({n: p for n, p in model.named_parameters() if p.requires_grad}, folder)


def save_part(parameters: dict[str, nn.Parameter], folder: Path) -> None:
    """Write named parameters of the backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: p.detach().to("cpu").contiguous() for n, p in parameters.items()}, folder / WEIGHTS)


@torch.no_grad()
def load_part(parameters: dict[str, nn.Parameter], folder: Path, subset: bool = False) -> set[str]:
    """Copy what `save_part` wrote into `parameters`, or into some of them if `subset`; the names that it wrote.

    Raises:
        UsageError: the file is absent, or its names or shapes are not those of `parameters`.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise UsageError(f"{path}: no such file. The folder of a finished run holds it; give that folder.")
    found = load_file(path)
    shapes = {n: tuple(t.shape) for n, t in found.items()}
    wanted = {n: tuple(p.shape) for n, p in parameters.items() if not subset or n in found}
    if shapes != wanted:
        name = min(n for n in shapes.keys() | wanted.keys() if shapes.get(n) != wanted.get(n))
        raise UsageError(
            f"{path}: made from another backbone or with other settings: `{name}` has shape {shapes.get(name, 'none')} "
            f"in the file and {wanted.get(name, 'none')} in the model. Use the config of the run that saved it."
        )
    for name, tensor in found.items():
        parameters[name].copy_(tensor)
    return set(found)
