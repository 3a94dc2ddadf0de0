"""Tuners that add nothing: all weights of the backbone, or none."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn

from peftbench.models.anatomy.names import fixed_tables, unfrozen
from peftbench.models.base import Backbone
from peftbench.tuners.base import WHOLE_BACKBONE, ParamGroups, Tuner, TunerContext
from peftbench.tuners.positions import count_real_positions


def weights_of(backbone: Backbone) -> int:
    """How many numbers of the backbone can be trained."""
    return backbone.total_parameters() - sum(table.numel() for table in fixed_tables(backbone.model))


class FullTuner(Tuner):
    """Full fine-tuning; positions that a formula gives stay. Group `backbone`."""

    identity_at_start = "base"

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        if backbone.family == "causal":
            count_real_positions(backbone.model)
        return unfrozen(backbone.model)

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {"backbone": [p for p in model.parameters() if p.requires_grad]}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        return weights_of(backbone)

    def save(self, model: nn.Module, folder: Path) -> None:
        """`backbone.safetensors`: the whole state; tied tensors once."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / WHOLE_BACKBONE))

    def load(self, model: nn.Module, folder: Path) -> None:
        load_model(model, str(folder / WHOLE_BACKBONE))


class FrozenTuner(Tuner):
    """The backbone stays as it is (`head_only`, `none`); what is trained, if anything, is the formulation's head."""

    identity_at_start = "base"

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        if backbone.family == "causal":
            count_real_positions(backbone.model)
        return backbone.model.requires_grad_(False)

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        return 0

    def save(self, model: nn.Module, folder: Path) -> None:
        """`tuner.json`: a note that there is nothing to load."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tuner.json").write_text(json.dumps({"tuner": self.cfg.name, "trained": []}) + "\n")

    def load(self, model: nn.Module, folder: Path) -> None:
        """Nothing was trained, so there is nothing to read."""
