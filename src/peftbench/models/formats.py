"""`model.load`: the number format in which a backbone's weights are held. Free of torch until it is used.

int8 (Dettmers et al. 2022, arXiv 2208.07339) and nf4 with double quantisation (QLoRA, Dettmers et al. 2023, arXiv
2305.14314) are bitsandbytes', on a GPU or its CPU path. They concern the linear layers alone: embeddings, norms and
biases stay fp32, and so do the hidden states, so every tuner that adds parameters fits on top.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from peftbench.config.schema import ModelConfig

QUANTISED = ("int8", "nf4")


def check(cfg: ModelConfig, trains_weights: bool, method: str, precision: str) -> None:
    """Whether what is trained, and how, fits the format of the weights; before anything is loaded.

    Args:
        trains_weights: whether the tuner trains weights of the backbone (`TunerDeclaration.trains_weights`).
        precision: `trainer.precision`, resolved.

    Raises:
        UsageError: it does not, or the library is not there.
    """
    if cfg.load == "fp32":
        return
    if trains_weights:
        raise UsageError(
            f"model.load={cfg.load}: method={method} trains weights of the backbone, which are held in {cfg.load} and "
            "would lose its steps. Use model.load=fp32, or a method that adds parameters, such as lora."
        )
    if cfg.source == "random" and cfg.load in QUANTISED:
        raise UsageError(f"model.load={cfg.load}: model={cfg.name} has random weights, which stay fp32 or bf16.")
    if cfg.load in QUANTISED and find_spec("bitsandbytes") is None:
        raise UsageError(
            f'model.load={cfg.load} needs bitsandbytes, which is not installed: pip install "peftbench[quantised]". '
            "Without it: model.load=bf16, which halves the memory."
        )
    if cfg.load == "bf16" and precision == "fp32":
        raise UsageError(
            "model.load=bf16: weights in bf16 are multiplied in bf16, and this run would compute in fp32. Set "
            "trainer.precision=bf16."
        )


def arguments(load: str) -> dict[str, Any]:
    """Of `from_pretrained`."""
    import torch
    from transformers import BitsAndBytesConfig

    # one line for every layer of every pass, to say that its inputs are rounded too
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if load not in QUANTISED:
        return {"dtype": torch.bfloat16 if load == "bf16" else torch.float32}
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    how = {**nf4, "bnb_4bit_compute_dtype": torch.float32} if load == "nf4" else {"load_in_8bit": True}
    return {"dtype": torch.float32, "device_map": {"": "cpu"}, "quantization_config": BitsAndBytesConfig(**how)}


def count(parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for: two in each byte of an nf4 one."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())
