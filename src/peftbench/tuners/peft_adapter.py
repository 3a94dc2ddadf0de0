"""What all tuners that peft hosts have in common."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model
from torch import nn

from peftbench.models.base import Backbone
from peftbench.tuners.adapter_files import load_adapter, save_adapter
from peftbench.tuners.base import ParamGroups, Tuner


def task_type(backbone: Backbone) -> TaskType:
    """Decides which `PeftModelFor...` wraps the backbone, and with it whose forward and generate are called."""
    if backbone.purpose == "features" or backbone.family == "encoder":
        return TaskType.FEATURE_EXTRACTION
    return TaskType.SEQ_2_SEQ_LM if backbone.family == "seq2seq" else TaskType.CAUSAL_LM


def wrap(backbone: Backbone, config: PeftConfig, seed: int) -> PeftModel:
    """`get_peft_model` with its random numbers drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property under its old name; nothing a user could do about it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        torch.manual_seed(seed)
        return get_peft_model(backbone.model, config)


class PeftTuner(Tuner):
    """Files and parameter groups of an adapter that lives in a `PeftModel`."""

    group: str
    """Name of the one parameter group."""

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {self.group: [p for p in model.parameters() if p.requires_grad]}

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        assert isinstance(model, PeftModel)
        return model.disable_adapter()

    def save(self, model: nn.Module, folder: Path) -> None:
        """`adapter_config.json` and `adapter_model.safetensors`; `PeftModel.from_pretrained(base, folder)` reads it."""
        assert isinstance(model, PeftModel)
        save_adapter(model, folder)

    def load(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, PeftModel)
        load_adapter(model, folder)
