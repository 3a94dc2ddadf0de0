"""Weights of examples by one step of meta-learning, in closed form.

LiST (Wang et al., Findings of NAACL 2022, arXiv 2110.06274) weights a pseudo-labelled batch so that a step on it lowers
the loss on labelled rows, after Ren et al. (ICML 2018, arXiv 1803.09050). Let theta'(w) = theta - a sum_i w_i grad l_i.
At w = 0 the labelled loss L_m changes with w_i by

    g_i = d L_m(theta'(w)) / d w_i = -a <grad L_m, grad l_i>,

and w_i is in proportion to u_i = max(0, -g_i). So no graph through the inner step is needed: one backward pass gives
grad L_m, and the inner products with all grad l_i are one directional derivative of the losses (forward mode).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from peftbench.formulations.base import Batch

EPSILON = 1e-6
"""In the denominator of the released code."""

Gradient = Mapping[str, Tensor]
"""Parameter name -> gradient, without the parameters that the loss does not reach."""


def gradient_of(loss: Tensor, module: nn.Module) -> Gradient:
    """The gradient of a scalar `loss` in the trainable parameters of `module`; their `.grad` is left alone."""
    names, parameters = zip(*((n, p) for n, p in module.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: g for name, g in zip(names, found, strict=True) if g is not None}


def inner_products(losses: nn.Module, batch: Batch, direction: Gradient) -> Tensor:
    """<direction, grad l_i> for every item, (batch,): the derivative of the losses along `direction`, forward mode.

    Args:
        losses: batch -> (batch,) losses; `direction` is by its parameter names.

    Raises:
        NotImplementedError: an operation of the module has no forward-mode derivative.
    """
    own = dict(losses.named_parameters())
    # fused attention kernels have no forward mode
    with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        moved = {name: forward_ad.make_dual(own[name].detach(), v) for name, v in direction.items()}
        values, tangents = forward_ad.unpack_dual(functional_call(losses, moved, (batch,)))
    return torch.zeros_like(values) if tangents is None else tangents


def inner_products_by_item(losses: nn.Module, batch: Batch, direction: Gradient) -> Tensor:
    """The same by a backward pass for each item: slower, and possible for every module."""
    values = losses(batch)
    own = {name: p for name, p in losses.named_parameters() if name in direction}
    products = torch.zeros_like(values, requires_grad=False)
    for number, value in enumerate(values):
        keep = number + 1 < len(values)
        found = torch.autograd.grad(value, list(own.values()), retain_graph=keep, allow_unused=True)
        reached = ((g, direction[name]) for name, g in zip(own, found, strict=True) if g is not None)
        products[number] = sum((g * v).sum() for g, v in reached)
    return products


def normalised(products: Tensor, variant: Literal["paper", "released"] | str, inner_lr: float) -> Tensor:
    """Weights (batch,) from <grad L_m, grad l_i>: non-negative, and their sum is 1, or 0 if no product is positive.

    `paper` divides by the sum itself (our reading). `released` adds 1e-6 to it as the published code does; its products
    are scaled by the inner rate, so the sum of the weights falls below 1 where gradients are small.
    """
    positive = products.clamp(min=0)
    if variant == "released":
        scaled = inner_lr * positive
        return scaled / (scaled.sum() + EPSILON)
    total = positive.sum()
    return positive / total if total > 0 else positive
