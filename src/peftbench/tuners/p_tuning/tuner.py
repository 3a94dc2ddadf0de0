"""P-tuning, version 1 (Liu et al. 2021, "GPT understands, too", arXiv 2103.10385).

The soft prompt comes out of a small encoder (MLP or bidirectional LSTM, peft's `PromptEncoder`), which steadies its
training and is not needed afterwards. The forward pass is that of our prompt tuning; see there why it is not peft's.
"""

from __future__ import annotations

from pathlib import Path

import peft
import torch
from peft.tuners.p_tuning import PromptEncoder
from torch import nn

from peftbench.models.base import Backbone
from peftbench.tuners.adapter_files import read_module, read_tensors, write_adapter, write_module
from peftbench.tuners.base import ParamGroups, TunerContext
from peftbench.tuners.p_tuning import PTuningOptions
from peftbench.tuners.peft_adapter import task_type
from peftbench.tuners.prefix_tuning.tuner import shape_of
from peftbench.tuners.prompt_tuning.tuner import PromptTuningTuner
from peftbench.tuners.soft_prompt_layer import SoftPromptEmbedding
from peftbench.tuners.soft_prompt_model import adapter_of

ENCODER_FILE = "prompt_encoder.safetensors"


class PTuningTuner(PromptTuningTuner):
    """l vectors rewritten by an encoder. Groups `prompt` (the encoder's input) and `encoder`.

    Trained with an MLP, Linear(d, h), ReLU, Linear(h, h), ReLU, Linear(h, d): l d + 2 d h + h^2 + 2 h + d numbers. With
    an LSTM of `layers` bidirectional layers of width h: those, and Linear(2h, 2h), ReLU, Linear(2h, d) behind them.
    """

    budget_knob = "hidden"
    identity_at_start = None  # type: ignore[assignment]
    cfg: PTuningOptions  # type: ignore[assignment]

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        model = super().build(backbone, context)
        layer, (_, tensors) = layer_of(model), adapter_of(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.stored = self._peft_config(backbone)
            encoder = PromptEncoder(self.stored)
        encoder.embedding.weight = tensors["P"]  # type: ignore[assignment]
        layer.prompt_encoder = encoder
        return model

    def _peft_config(self, backbone: Backbone) -> peft.PromptEncoderConfig:
        shape = shape_of(backbone)
        return peft.PromptEncoderConfig(
            task_type=task_type(backbone),
            num_virtual_tokens=self.cfg.num_virtual_tokens,
            encoder_reparameterization_type=self.cfg.encoder,
            encoder_hidden_size=self.cfg.hidden_at(backbone.embedding_size),
            encoder_num_layers=self.cfg.layers if self.cfg.encoder == "LSTM" else 2,
            encoder_dropout=self.cfg.dropout,
            token_dim=backbone.embedding_size,
            num_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_transformer_submodules=1,
        )

    def param_groups(self, model: nn.Module) -> ParamGroups:
        groups: ParamGroups = {"prompt": [], "encoder": []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups["prompt" if ".dept_P." in name else "encoder"].append(parameter)
        return groups

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        d = backbone.embedding_size
        h, prompt = self.cfg.hidden_at(d), self.cfg.num_virtual_tokens * d
        if self.cfg.encoder == "MLP":
            return prompt + 2 * d * h + h * h + 2 * h + d
        # Of each direction of a layer: four gates of h, each reading the input and the state, with two biases.
        inputs = [d] + [2 * h] * (self.cfg.layers - 1)
        lstm = sum(2 * 4 * h * (width + h + 2) for width in inputs)
        return prompt + lstm + (2 * h + 1) * 2 * h + (2 * h + 1) * d

    def save(self, model: nn.Module, folder: Path) -> None:
        """A P_TUNING adapter with the finished prompt, which plain peft loads, and the encoder, to train on."""
        layer = layer_of(model)
        with torch.no_grad():
            write_adapter(folder, self.stored, {"prompt_embeddings": layer.prompt(*layer.current())})
        assert layer.prompt_encoder is not None
        write_module(layer.prompt_encoder, folder / ENCODER_FILE)

    def load(self, model: nn.Module, folder: Path) -> None:
        layer = layer_of(model)
        read_tensors(folder, {"prompt_embeddings": layer.prompt(*layer.current()).detach()})
        assert layer.prompt_encoder is not None
        read_module(layer.prompt_encoder, folder / ENCODER_FILE)

    def warm_start(self, model: nn.Module, folder: Path) -> None:
        self.load(model, folder)  # a finished prompt cannot be put in front of the encoder


def layer_of(model: nn.Module) -> SoftPromptEmbedding:
    """The wrapped input embedding."""
    return next(m for m in model.modules() if isinstance(m, SoftPromptEmbedding))
