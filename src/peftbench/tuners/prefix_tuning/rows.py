"""A key/value prefix where there is no cache: l more rows of what an attention reads, with the prefix as their keys and
values.

The rows stand before the text, are seen by all of it, and are cut off behind the attention, so that nothing is left of
them but their keys and values. They carry no position: neither a rotation nor a bias by distance is applied to them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.models.anatomy import anatomy_of
from peftbench.models.anatomy.parts import Attention, Projection
from peftbench.tuners.extra_rows import with_room, without_rows


class PrefixRows:
    """The hooks at one attention. It runs `passes` times in a forward pass; each time takes the next of `layers`, pairs
    of keys and values (1, heads, l, width). Empty: the bare attention."""

    def __init__(self, model: PreTrainedModel, attention: Attention, passes: int) -> None:
        self.attention, self.passes = attention, passes
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.now: tuple[Tensor, Tensor] | None = None
        self.read: Tensor | None = None
        module = model.get_submodule(attention.module)
        module.register_forward_pre_hook(self.widen, with_kwargs=True)
        module.register_forward_hook(self.narrow)
        for role, projection in enumerate((attention.key, attention.value)):
            model.get_submodule(projection.name).register_forward_hook(partial(self.fill, role))

    def widen(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the attention: l rows of zeros in front of its input, and room for them in masks and biases."""
        self.now = self.layers.pop(0) if self.layers else None
        if self.now is None:
            return None
        hidden, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
        length = self.now[0].shape[2]
        others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        new_args, new_kwargs = with_room(module, length, hidden.shape[1], rest, others)
        zeros = hidden.new_zeros(len(hidden), length, hidden.shape[2])
        self.read = torch.cat([zeros, hidden], dim=1)
        return (self.read, *new_args), new_kwargs

    def fill(self, role: int, matrix: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Behind the matrix of keys (role 0) or values (1): the prefix in place of what it made of the rows. What else
        goes through the matrix (DeBERTa's relative positions) stays."""
        if self.now is None or args[0] is not self.read:
            return None
        part = self.now[role][0].transpose(0, 1).flatten(1).to(output.dtype)  # (l, heads x width)
        projection = (self.attention.key, self.attention.value)[role]
        rows = output[:, : len(part)].clone()
        rows[..., columns(projection, output)] = part
        return torch.cat([rows, output[:, len(part) :]], dim=1)

    def narrow(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Behind the attention: its rows are cut off."""
        if self.now is None:
            return None
        length, self.now, self.read = self.now[0].shape[2], None, None
        return without_rows(output, length)


def columns(projection: Projection, output: Tensor) -> Tensor:
    """Which outputs of its matrix are a projection's."""
    rows = projection.rows or ((0, output.shape[-1]),)
    return torch.cat([torch.arange(start, stop, device=output.device) for start, stop in rows])


def prefix_rows(model: PreTrainedModel) -> list[PrefixRows]:
    """Hooks at every attention of the stack that answers, in the order of its blocks."""
    return [PrefixRows(model, block.attention, block.passes) for block in anatomy_of(model).last.blocks]


class Projected:
    """Keeps what the matrices of keys and values of an attention make of its input: (l, heads x width) each."""

    def __init__(self, model: PreTrainedModel, attention: Attention, found: list[Tensor]) -> None:
        self.found = found
        self.read: Tensor | None = None
        module = model.get_submodule(attention.module)
        self.handles = [module.register_forward_pre_hook(self.look, with_kwargs=True)]
        for projection in (attention.key, attention.value):
            matrix = model.get_submodule(projection.name)
            self.handles.append(matrix.register_forward_hook(partial(self.keep, projection)))

    def look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the attention."""
        self.read = args[0] if args else kwargs["hidden_states"]

    def keep(self, projection: Projection, matrix: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Behind a matrix."""
        if args[0] is self.read:
            self.found.append(output[0][..., columns(projection, output)])


def projected_tokens(model: PreTrainedModel, text: Tensor) -> Tensor:
    """(l, 2 x layers x heads x width): what the matrices of keys and values give for (1, l) tokens."""
    found: list[Tensor] = []
    looking = [Projected(model, block.attention, found) for block in anatomy_of(model).last.blocks]
    try:
        model(input_ids=text)
    finally:
        for one in looking:
            for handle in one.handles:
                handle.remove()
    return torch.cat(found, dim=-1)
