"""Cached keys and values as leaves of a graph, and the moments of Adam that belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer

BETAS, EPSILON = (0.9, 0.999), 1e-8


class States:
    """The cached states of some positions in all layers, and the moments of Adam for each of them.

    What is here is in float32, whatever the network computes in.

    Attributes:
        tensors: keys and values of each layer in turn, (batch, heads of keys, positions, width): of grouped queries
            once a group.
        means, squares: first and second moments, of the same shapes.
        ages: (positions,) steps that each position has taken.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [t.detach().float().clone() for t in tensors]
        self.means = [torch.zeros_like(t) for t in self.tensors]
        self.squares = [torch.zeros_like(t) for t in self.tensors]
        self.ages = torch.zeros(self.length, device=self.tensors[0].device)

    @property
    def length(self) -> int:
        """Positions."""
        return self.tensors[0].shape[2]

    def leaves(self, chosen: Sequence[int]) -> list[Tensor]:
        """Those of the layers `chosen` from now on require gradients; in the order of `step`."""
        found = [self.tensors[2 * layer + part] for layer in chosen for part in (0, 1)]
        return [t.requires_grad_() for t in found]

    def step(self, gradients: Sequence[Tensor], rate: float, chosen: Sequence[int]) -> None:
        """One step of Adam (Kingma and Ba, ICLR 2015), bias-corrected by the age of each position."""
        self.ages += 1
        first, second = (1 - torch.tensor(b, device=self.ages.device) ** self.ages for b in BETAS)
        places = [2 * layer + part for layer in chosen for part in (0, 1)]
        for place, gradient in zip(places, gradients, strict=True):
            mean = self.means[place].lerp(gradient.float(), 1 - BETAS[0])
            square = BETAS[1] * self.squares[place] + (1 - BETAS[1]) * gradient.float() ** 2
            root = (square / second[:, None]).sqrt() + EPSILON
            moved = self.tensors[place].detach() - rate * (mean / first[:, None]) / root
            self.tensors[place], self.means[place], self.squares[place] = moved, mean, square

    def extended(self, new: Sequence[Tensor]) -> States:
        """These and new positions behind them, whose moments are 0."""
        added = States(new)
        made = States.__new__(States)
        for name in ("tensors", "means", "squares"):
            pairs = zip(getattr(self, name), getattr(added, name), strict=True)
            setattr(made, name, [torch.cat([one.detach(), other], dim=2) for one, other in pairs])
        made.ages = torch.cat([self.ages, added.ages])
        return made

    def last(self, window: int) -> States:
        """The last `window` positions; the moments of the others go with them."""
        made = States.__new__(States)
        for name in ("tensors", "means", "squares"):
            setattr(made, name, [t[:, :, -window:].detach() for t in getattr(self, name)])
        made.ages = self.ages[-window:]
        return made


class LeafLayer(DynamicLayer):
    """A layer of a cache that gives the attention the states that it holds, in the place of those that it is given: a
    pass then computes queries alone.

    Attributes:
        past: positions that stand before the first query.
    """

    def __init__(self, keys: Tensor, values: Tensor, past: int) -> None:
        super().__init__()
        self.leaves, self.past, self.is_initialized = (keys, values), past, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.leaves[0].to(key_states.dtype), self.leaves[1].to(value_states.dtype)

    def get_seq_length(self) -> int:
        return self.past

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.leaves[0].shape[-2], 0


@contextmanager
def reading(network: nn.Module, tensors: Sequence[Tensor]) -> Iterator[None]:
    """In the block a pass over the same prompt attends to `tensors` (`States.tensors`), whatever stands around the
    network: a soft prompt's positions are among them, a prefix' too."""

    def inject(module: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        before = given.get("past_key_values")
        past = before.get_seq_length() if before is not None else 0
        layers: list[Any] = [LeafLayer(k, v, past) for k, v in zip(tensors[::2], tensors[1::2], strict=True)]
        return args, {**given, "past_key_values": Cache(layers=layers), "use_cache": True}

    hook = network.register_forward_pre_hook(inject, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
