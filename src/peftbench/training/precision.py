"""Number formats of the forward pass. Parameters, gradients and optimiser states stay fp32 in either."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


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
