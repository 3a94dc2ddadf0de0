"""Number formats of the forward pass, and the attention kernel that suits them.

Parameters, gradients and optimiser states stay fp32 in either format.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn
from transformers import PreTrainedModel


def resolve(precision: str, device: torch.device) -> str:
    """`auto` -> "bf16" where `device` computes in bf16 in hardware, else "fp32"; other names come back as they are.

    A CPU without bf16 instructions emulates them, slower than fp32, so there auto means fp32; bf16 may still be asked
    for by name on any device, for example to repeat a result.
    """
    if precision != "auto":
        return precision
    return "bf16" if hardware_bf16(device) else "fp32"


def hardware_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 matrices natively."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass in a resolved `precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def choose_attention(module: nn.Module, attention: str, precision: str, device: torch.device) -> None:
    """Set the attention kernel of every transformers model in `module`: `sdpa`, `eager` or `auto`.

    `auto` takes eager attention for bf16 on a CPU, where PyTorch's fused kernel has a slow backward pass (a third of a
    training step of MiniLM on 8 x 128 tokens), and leaves the library's own choice everywhere else.
    """
    if attention == "auto":
        if device.type != "cpu" or precision != "bf16":
            return
        attention = "eager"
    for model in module.modules():
        if isinstance(model, PreTrainedModel):
            model.set_attn_implementation(attention)
