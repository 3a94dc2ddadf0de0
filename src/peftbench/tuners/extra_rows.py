"""Extra rows at the input of a module that attends: its tokens attend to them, and they are cut off behind it.

The module itself is not changed. What it is called with besides the hidden states (masks, biases by position,
rotations) is given room for the rows: they are seen by all tokens, carry no bias and are not rotated. In a causal model
the rows' keys and values stay in the cache, in front of the text's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone

MASKS = ("sdpa", "eager")
"""Attention implementations that take a mask for each pair of tokens."""


def stack_of(model: PreTrainedModel) -> PreTrainedModel:
    """The stack that answers (the decoder, where there is one of its own): what is called with its mask and cache."""
    stack = model.get_submodule(anatomy_of(model).last.module)
    assert isinstance(stack, PreTrainedModel)
    return stack


def check_room(backbone: Backbone, longest: int) -> None:
    """Raises UsageError if rows cannot be put before this backbone's blocks, for inputs of `longest` tokens."""
    anatomy, config = backbone.anatomy, backbone.model.config
    if anatomy.positions == "alibi":
        raise UsageError(
            f"method.tuner: model={backbone.name} biases each key by the number of tokens before it (ALiBi), and rows "
            "in front of a block are no tokens. Use method=prefix_tuning or method=prompt_tuning there."
        )
    if config._attn_implementation not in MASKS:
        raise UsageError(
            f"method.tuner needs an attention mask of its own, which `{config._attn_implementation}` attention does "
            f"not take. Load model={backbone.name} with one of: {', '.join(MASKS)}."
        )
    if anatomy.last.causal:
        check_window(backbone, longest)


def check_window(backbone: Backbone, longest: int) -> None:
    """Raises UsageError if layers look back less far than to what stands in front of inputs of `longest` tokens."""
    window = backbone.anatomy.window
    if window is not None and longest > window:
        raise UsageError(
            f"trainer.max_length={longest}: layers of model={backbone.name} look back {window} tokens only, and would "
            f"not see what this tuner puts in front. Use trainer.max_length={window} or less."
        )


def call_with_rows(
    block: nn.Module, rows: Tensor, hidden: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The block's output for `hidden` (batch, n, d) with `rows` (batch, k, d) in front, these cut off again."""
    k = rows.shape[1]
    args, kwargs = with_room(block, k, hidden.shape[1], args, kwargs)
    return without_rows(block(torch.cat([rows.to(hidden.dtype), hidden], dim=1), *args, **kwargs), k)


def without_rows(output: Any, k: int) -> Any:
    """Hidden states, or a tuple that begins with them, without the first k positions."""
    return output[:, k:] if isinstance(output, Tensor) else (output[0][:, k:], *output[1:])


def with_room(
    module: nn.Module, k: int, n: int, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """What a module is called with behind its hidden states, for k more positions in front of the n there are."""
    names = list(inspect.signature(module.forward).parameters)[1:]
    room = [widened(name, value, k, n) for name, value in zip(names, args, strict=False)]
    return room, {name: widened(name, value, k, n) for name, value in kwargs.items()}


def widened(name: str, value: Any, k: int, n: int) -> Any:
    """One argument, by its name in transformers."""
    if isinstance(value, tuple) and name == "position_embeddings":
        cosines, sines = value
        return rotation(cosines, k, n, 1.0), rotation(sines, k, n, 0.0)
    if not isinstance(value, Tensor):
        return value
    match name:
        case "attention_mask":
            return square(value, k, n, seen=True)
        case "position_bias" | "relative_pos":
            return square(value, k, n, seen=False)
        case "position_ids":  # position 0 is no rotation (GPT-J looks its angles up in the block)
            return F.pad(value, (k, 0)) if value.shape[-1] == n else value
        case "sinusoidal_pos":  # sines, then cosines
            sines, cosines = value.chunk(2, dim=-1)
            return torch.cat([rotation(sines, k, n, 0.0), rotation(cosines, k, n, 1.0)], dim=-1)
    return value


def square(table: Tensor, k: int, n: int, seen: bool) -> Tensor:
    """(..., n or 1, n) -> (..., k + n or 1, k + n): new entries are what says in a mask that a key is `seen`, or 0.
    What is wide enough already stays."""
    if table.shape[-1] != n:
        return table
    if table.dim() < 3:
        raise ValueError(f"rows need a mask for each pair of tokens, found {tuple(table.shape)}; use sdpa or eager")
    above = k if table.shape[-2] == n else 0
    wider = F.pad(table, (k, 0, above, 0))
    if seen:  # true, 1, or 0 in a mask that is added: the largest there is, since every token sees itself
        wider[..., :k] = wider[..., :above, :] = table.amax()
    return wider


def rotation(table: Tensor, k: int, n: int, value: float) -> Tensor:
    """(..., n, width) -> (..., k + n, width); what is long enough already stays."""
    return F.pad(table, (0, 0, k, 0), value=value) if table.shape[-2] == n else table
