"""Checkpoint folders of tiny random networks, one an architecture, written as their users' are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel

from peftbench.config import compose
from peftbench.models import load_backbone
from peftbench.models.base import Backbone
from peftbench.models.random_init import build_tokenizer

BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
POSITIONS = {"max_position_embeddings": 80}
NARROW = {"embedding_size": 16}
PAIRED = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
          "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "type_vocab_size": 0}

MASKED_LMS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("albert", {**BLOCKS, **POSITIONS, **NARROW}),
    "bert": ("bert", {**BLOCKS, **POSITIONS}),
    "big_bird": ("big_bird", {**BLOCKS, **POSITIONS, "attention_type": "original_full"}),
    "camembert": ("camembert", {**BLOCKS, **POSITIONS}),
    "convbert": ("convbert", {**BLOCKS, **POSITIONS, **NARROW}),
    "deberta": ("deberta", {**BLOCKS, **POSITIONS, "legacy": True}),
    "deberta-v2": ("deberta-v2", {**BLOCKS, **POSITIONS, **DEBERTA, "legacy": True}),
    "deberta-v2, new head": ("deberta-v2", {**BLOCKS, **POSITIONS, **DEBERTA, "legacy": False}),
    "distilbert": ("distilbert", {**POSITIONS, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}),
    "electra": ("electra", {**BLOCKS, **POSITIONS, **NARROW}),
    "ernie": ("ernie", {**BLOCKS, **POSITIONS}),
    "mobilebert": ("mobilebert", {**BLOCKS, **POSITIONS, "embedding_size": 16, "intra_bottleneck_size": 32}),
    "modernbert": ("modernbert", {**BLOCKS, **POSITIONS, "local_attention": 8}),
    "mpnet": ("mpnet", {**BLOCKS, **POSITIONS}),
    "nomic_bert": ("nomic_bert", {**BLOCKS, **POSITIONS}),
    "rembert": ("rembert", {**BLOCKS, **POSITIONS, "input_embedding_size": 16, "output_embedding_size": 40}),
    "roberta": ("roberta", {**BLOCKS, **POSITIONS}),
    "roformer": ("roformer", {**BLOCKS, **POSITIONS, **NARROW}),
    "xlm-roberta": ("xlm-roberta", {**BLOCKS, **POSITIONS}),
}
"""Every kind of masked-LM head: of one module, of several, with embeddings narrower than the states, untied, and with
the word embeddings given in the call."""

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {**POSITIONS, "hidden_size": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "ffn_dim": 48, "do_layer_norm_before": False}),  # as OPT-350m
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 80}),
    "llama": ("llama", {**BLOCKS, **POSITIONS, "num_key_value_heads": 1}),
    "llama-64": ("llama", {**BLOCKS, **POSITIONS, "hidden_size": 64, "intermediate_size": 128}),  # blocks of nf4
    "qwen2": ("qwen2", {**BLOCKS, **POSITIONS, "num_key_value_heads": 1}),
    "phi3": ("phi3", {**BLOCKS, **POSITIONS, "num_key_value_heads": 1, "original_max_position_embeddings": 80}),
    "bart": ("bart", {**POSITIONS, **PAIRED}),
    "mbart": ("mbart", {**POSITIONS, **PAIRED}),
    "t5": ("t5", T5),
    "mt5": ("mt5", T5),
    "fnet": ("fnet", {**BLOCKS, **POSITIONS}),  # Fourier transforms in the place of attention
}  # fmt: skip
FAMILIES = {"opt": "causal", "gpt2": "causal", "llama": "causal", "qwen2": "causal", "phi3": "causal",
            "bart": "seq2seq", "mbart": "seq2seq", "t5": "seq2seq", "mt5": "seq2seq"}  # fmt: skip


def save_backbone(backbone: Backbone, folder: Path) -> Path:
    """The folder with a backbone and its tokenizer, as save_pretrained writes them."""
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def saved_files(folder: Path) -> dict[str, bytes]:
    """A tiny BERT saved in `folder`: name -> content."""
    save_backbone(load_backbone(compose(["model=tiny-bert"]).model, "features"), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder: Path, network: str, auto_class: Any, chat_template: str | None = None) -> PreTrainedModel:
    """The network in `folder`, with its tokenizer, and itself in eval mode."""
    kind, sizes = {**MASKED_LMS, **OTHERS}[network]
    tokenizer = build_tokenizer(kind, None)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos")}
    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **sizes, **ids)
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = auto_class.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases that are not 0, and scores that differ
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return model
