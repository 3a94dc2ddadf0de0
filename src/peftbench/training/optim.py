"""The optimiser with its named parameter groups, and the learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peftbench.errors import UsageError, did_you_mean


def build_optimizer(
    groups: Mapping[str, list[nn.Parameter]],
    lr: Mapping[str, float],
    weight_decay: float,
    *,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    constant: Container[str] = (),
) -> torch.optim.AdamW:
    """AdamW with `lr[name]` as the peak rate of each named group; the rate of a group in `constant` never falls.

    `weight_decay` is one value for every parameter of two or more axes (weight matrices, embeddings, soft prompts);
    biases and normalisation gains, which have one axis, do not decay. A torch group carries its `name` and its peak
    rate `peak_lr`. Raises UsageError if a group has no rate or `lr` names no group.
    """
    if not groups:
        raise UsageError("this method has nothing to train; choose one with a tuner or a head, such as `method=lora`.")
    for name in lr:
        if name not in groups:
            raise UsageError(f"method.lr.{name}: no such parameter group. {did_you_mean(name, groups)}")
    for name in groups:
        if name not in lr:
            raise UsageError(
                f"method.lr has no learning rate for the parameter group `{name}`; add `+method.lr.{name}=0.001`."
            )
    torch_groups = []
    for name, parameters in groups.items():
        matrices = [p for p in parameters if p.ndim >= 2]
        vectors = [p for p in parameters if p.ndim < 2]
        for members, decay in ((matrices, weight_decay), (vectors, 0.0)):
            if members:
                rates = {"lr": lr[name], "peak_lr": lr[name], "weight_decay": decay, "constant": name in constant}
                torch_groups.append({"params": members, "name": name, **rates})
    return torch.optim.AdamW(torch_groups, betas=(0.9, beta2), eps=epsilon, fused=True)


@dataclass
class Course:
    """Several trainings that share one optimiser and one schedule, as if they were one.

    Attributes:
        optimizer: of the parameters that all of them train.
        steps: optimiser steps of all of them together, over which the schedule runs.
        done: those before the training at hand.
    """

    optimizer: torch.optim.AdamW
    steps: int
    done: int = 0


def lr_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Share of the peak rate at the 0-based `step` of `steps`.

    Linear rise over the warm-up (`warmup` is a share of `steps` if below 1, else a number of steps), then constant,
    or falling to 0 at `steps` in a line or a half cosine, as transformers' schedules of these names do.
    """
    rise = math.ceil(warmup * steps) if warmup < 1 else int(warmup)
    if step < rise:
        return step / max(1, rise)
    done = (step - rise) / max(1, steps - rise)
    if schedule == "linear":
        return max(0.0, 1.0 - done)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Scale every group that is not constant to `factor` of its peak and return group name -> rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * (1.0 if group["constant"] else factor)
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state as tensors named `<parameter>/<moment>`."""
    return {
        f"{names[parameter]}/{key}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave."""
    by_name = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = by_name[name]
        optimizer.state[parameter][moment] = value.to(parameter.device, copy=True)
