"""GGUF files (llama.cpp's format) as plain checkpoints: transformers dequantises once, later loads take 0.1 s."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from peftbench.errors import UsageError


def convert(path: Path, folder: Path) -> None:
    """Write the causal model in `path` as float32 safetensors with its config and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if find_spec("gguf") is None:
        raise UsageError(f'reading {path.name} needs the gguf package: pip install "peftbench[offline]"')
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    # A model loaded from GGUF calls itself quantised and refuses to be saved; its float32 weights in a model built
    # from the same config are an ordinary one.
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
