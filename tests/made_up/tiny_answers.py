"""Learners that answer in words, on tiny networks of random weights."""

import torch
from made_up_configs import compose

from peftbench.build import build_learner
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.tasks.base import DataSource, Row, TaskData

_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.1}
_GATED = {**_SMALL, "intermediate_size": 128, "num_key_value_heads": 2, "max_position_embeddings": 256}
ARCHITECTURES = {
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": {"model_type": "llama", **_GATED},
    "qwen2": {"model_type": "qwen2", **_GATED},
    "qwen3": {"model_type": "qwen3", **_GATED, "head_dim": 16},
    "mistral": {"model_type": "mistral", **_GATED, "sliding_window": None},
    "mistral that looks back 8 tokens": {"model_type": "mistral", **_GATED, "sliding_window": 8},
    "gemma3": {"model_type": "gemma3_text", **_GATED, "head_dim": 16, "sliding_window": 8},
    "gpt_neox": {"model_type": "gpt_neox", **_SMALL, "intermediate_size": 128, "max_position_embeddings": 256},
    "opt": {"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128,
            "max_position_embeddings": 256, "word_embed_proj_dim": 64},
    "bloom, with ALiBi positions": {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "falcon, with ALiBi positions": {"model_type": "falcon", "hidden_size": 64, "num_hidden_layers": 2,
                                     "num_attention_heads": 4, "alibi": True},
    "t5": {"model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    "bart": {"model_type": "bart", "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128,
             "decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
             "max_position_embeddings": 256},
}  # fmt: skip
"""Kind of network -> `model.arch`."""


def texts() -> list[Row]:
    return [
        Row("test:0", "The team won the cup", "sports"),
        Row("test:1", "Parliament passed a long and much debated law on the price of water", "politics"),
        Row("test:2", "Doctors", "health"),
    ]


def task(labels=("health", "politics", "sports"), **changes) -> TaskData:
    facts = {
        "name": "toy", "subset": "", "train": texts(), "dev": [], "test": texts(), "labels": tuple(labels),
        "label_words": {}, "fields": ("text", "pair"), "problem": "classification", "main_metric": "accuracy",
        "metrics": ("accuracy",), "source": DataSource("packaged", "test"),
    }  # fmt: skip
    return TaskData(**{**facts, **changes})


def many_labels(count: int) -> TaskData:
    """Labels of several tokens with common beginnings."""
    return task([f"{word} number {n}" for n in range(count // 2) for word in ("water", "wine")])


def learner(*overrides: str, data=None, arch=None, shots=()) -> Learner:
    """In eval mode. `arch`: that of another network than `model=` names."""
    given = [] if arch is None else [f"model={'tiny-t5' if arch['model_type'] in ('t5', 'bart') else 'tiny-gpt2'}"]
    cfg = compose(["shots=4", "trainer.max_length=64", *given, *overrides])
    if arch is not None:
        cfg.model.arch = arch
    built, _ = build_learner(cfg, data or task(), PhaseClock(), shots)
    return built.eval()


def disturbed(net: Learner) -> Learner:
    """What is trained, moved away from its start, so that a tuner's part shows in the outputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return net
