"""Prompt tuning (Lester, Al-Rfou and Constant, EMNLP 2021, arXiv 2104.08691).

Computed by the DePT tuner at rank 0, which is prompt tuning at every step, and stored as a PROMPT_TUNING adapter that
plain peft loads. peft's own forward gives the same logits to the last bit on right-padded single texts (a test
compares them) but drops position ids and token types: a left-padded causal model then answers differently the more
padding a batch has, and the second text of a pair loses its segment. It also cannot reload a prompt for training.
"""

from __future__ import annotations

from pathlib import Path

import peft
import torch
from peft import PeftModel
from torch import nn

from peftbench.models.base import Backbone
from peftbench.tuners.adapter_files import read_tensors, write_adapter
from peftbench.tuners.base import TunerContext
from peftbench.tuners.dept.tuner import DeptTuner
from peftbench.tuners.prompt_tuning import PromptTuningOptions
from peftbench.tuners.soft_prompt_layer import DeptConfig
from peftbench.tuners.soft_prompt_model import adapter_of


class PromptTuningTuner(DeptTuner):
    """l trainable vectors before the embedded input, on the encoder's side of an encoder-decoder: l x d numbers.
    Group `prompt`."""

    needs_answer_starts = False  # no offset, which an answer would be without
    budget_knob = "num_virtual_tokens"
    cfg: PromptTuningOptions  # type: ignore[assignment]

    def peft_config(self, backbone: Backbone, context: TunerContext) -> DeptConfig:
        return DeptConfig(**self.soft_prompt(backbone, context), rank=0)

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        return self.cfg.num_virtual_tokens * backbone.embedding_size

    def save(self, model: nn.Module, folder: Path) -> None:
        """A PROMPT_TUNING adapter: `prompt_embeddings` (l, d)."""
        config, tensors = adapter_of(model)
        prompt = tensors["P"]
        stored = peft.PromptTuningConfig(
            task_type=config.task_type,
            base_model_name_or_path=config.base_model_name_or_path,
            num_virtual_tokens=len(prompt),
            token_dim=prompt.shape[1],
            num_transformer_submodules=1,
        )
        write_adapter(folder, stored, {"prompt_embeddings": prompt})

    def load(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, PeftModel)
        _, tensors = adapter_of(model)
        found = read_tensors(folder, {"prompt_embeddings": tensors["P"]})
        with torch.no_grad():
            tensors["P"].copy_(found["prompt_embeddings"])
