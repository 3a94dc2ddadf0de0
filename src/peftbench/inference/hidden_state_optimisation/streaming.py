"""The streaming form: a long text is scored segment by segment, and what is cached of it moves after each.

A segment's tokens are scored with the states as they are; then the gradients of its loss move the states of what came
before and its own (these through all that follows from them in the segment). Moments of Adam belong to a state and go
with it out of the window (arXiv 2112.08653; the segment as one forward pass, and bias correction by a state's own age,
are our reading).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from peftbench.inference.hidden_state_optimisation.states import States


class _GrowingLayer(DynamicLayer):
    """Gives the attention what it holds and, behind it, what it is given, which it keeps apart as `new`."""

    def __init__(self, keys: Tensor | None, values: Tensor | None) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = keys is not None
        self.new: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        new = [
            t if t.requires_grad or not torch.is_grad_enabled() else t.requires_grad_()
            for t in (key_states, value_states)
        ]
        self.new = (new[0], new[1])
        if self.keys is None or self.values is None:
            return self.new
        old = self.keys.to(new[0].dtype), self.values.to(new[1].dtype)
        return torch.cat([old[0], new[0]], dim=2), torch.cat([old[1], new[1]], dim=2)


def stream(network: PreTrainedModel, ids: Tensor, segment: int, window: int, rate: float) -> Iterator[Tensor]:
    """Log-probabilities, in nats, of the tokens of a text but its first, segment by segment; no token is looked at
    before it is scored.

    Args:
        network: a causal model with rotary or absolute positions, in eval mode; its weights are left alone.
        ids: (n,), no longer than the network's positions.
        segment: tokens of a segment.
        window: positions that are kept.
        rate: of Adam; 0 leaves the states as they are.
    """
    states: States | None = None
    for start in range(0, len(ids) - 1, segment):
        wanted = ids[start + 1 : start + segment + 1]
        with torch.enable_grad():
            old = None if states is None else states.leaves(range(len(states.tensors) // 2))
            pairs = (
                [(None, None)] * network.config.num_hidden_layers
                if old is None
                else zip(old[::2], old[1::2], strict=True)
            )
            layers = [_GrowingLayer(keys, values) for keys, values in pairs]
            places = torch.arange(start, start + len(wanted), device=ids.device)[None]
            logits = network(
                input_ids=ids[None, start : start + len(wanted)],
                position_ids=places,
                past_key_values=Cache(layers=[*layers]),
                use_cache=True,
            ).logits
            scores = -F.cross_entropy(logits[0].float(), wanted, reduction="none")
            yield scores.detach()
            new = [t for layer in layers if layer.new is not None for t in layer.new]
            gradients = torch.autograd.grad(-scores.sum(), [*(old or ()), *new]) if rate else ()
        states = States(new) if states is None else states.extended(new)
        if rate:
            count = len(new)
            behind = gradients[-count:]
            joined = (
                [torch.cat([g, h], dim=2) for g, h in zip(gradients[:-count], behind, strict=True)] if old else behind
            )
            states.step(joined, rate, range(count // 2))
        states = states.last(window)
