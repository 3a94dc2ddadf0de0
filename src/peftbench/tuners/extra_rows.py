"""Extra rows at the input of a Transformer block: the block's tokens attend to them, and they are cut off behind it.

The block itself is not changed. Its stack is called with an attention mask (and, with rotary positions, position ids)
that already has room for the rows, so a block needs nothing but the rows in front of its hidden states. In a causal
model the rows' keys and values stay in the cache, in front of the text's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.errors import UsageError
from peftbench.models.base import Backbone

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert")
BLOCKS = {
    **dict.fromkeys(ENCODERS, "encoder.layer"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), "layers"),
    "gpt2": "h",
}
"""Architecture -> its list of blocks within the bare stack. These stacks use a 4-D attention mask as it is given."""

MASKS = ("sdpa", "eager")
"""Attention implementations that take such a mask."""


def stack_of(model: PreTrainedModel) -> PreTrainedModel:
    """The bare stack of blocks: `model` itself, or what its language-model head sits on."""
    return getattr(model, model.base_model_prefix, model)


def check_architecture(backbone: Backbone, longest: int) -> None:
    """Raises UsageError if rows cannot be put before this backbone's blocks, for inputs of `longest` tokens."""
    config = backbone.model.config
    if config.model_type not in BLOCKS:
        raise UsageError(
            f"method.tuner does not know the blocks of the architecture `{config.model_type}` "
            f"(model={backbone.name}). It fits: {', '.join(sorted(BLOCKS))}."
        )
    if config._attn_implementation not in MASKS:
        raise UsageError(
            f"method.tuner needs an attention mask of its own, which `{config._attn_implementation}` attention does "
            f"not take. Load model={backbone.name} with one of: {', '.join(MASKS)}."
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and longest > window:
        raise UsageError(
            f"trainer.max_length={longest}: model={backbone.name} looks back {window} tokens only, which this tuner's "
            f"mask does not know. Use trainer.max_length={window} or less."
        )


def blocks_of(stack: PreTrainedModel) -> nn.ModuleList:
    """The list of blocks of a bare stack."""
    found = stack.get_submodule(BLOCKS[stack.config.model_type])
    assert isinstance(found, nn.ModuleList)
    return found


def has_rotary_positions(stack: nn.Module) -> bool:
    """Whether positions enter in the attention of each block, and not with the embeddings."""
    return any(name.endswith("rotary_emb") for name, _ in stack.named_modules())


def mask_with_rows(mask: Tensor, rows: int | Tensor, queries: int, stack: PreTrainedModel, causal: bool) -> Tensor:
    """The 4-D attention mask of a block whose input, or cache, begins with extra rows.

    Args:
        mask: (batch, n) 1 for real tokens, n counts all tokens so far.
        rows: how many rows there are, visible to all; or (batch, rows) which of them each item sees.
        queries: how many of the last tokens are computed now. If that is all n, the rows are computed too.
        stack: decides the form: true / false for sdpa, 0 / lowest number for eager attention.

    Returns:
        (batch, 1, rows + n, rows + n), or (batch, 1, queries, rows + n) where only the last tokens are computed.
    """
    batch, n = mask.shape
    seen = mask.new_ones(batch, rows) if isinstance(rows, int) else rows.to(mask.dtype)
    keys = torch.cat([seen, mask], dim=1).bool()[:, None, None, :]
    count = seen.shape[1]
    place = torch.arange(count + n, device=mask.device)
    computed = place if queries == n else place[-queries:]
    allowed = keys.expand(batch, 1, len(computed), -1)
    if causal:
        allowed = allowed & ((place < count) | (place <= computed[:, None]))
    if stack.config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros_like(allowed, dtype=stack.dtype).masked_fill(~allowed, torch.finfo(stack.dtype).min)


def call_with_rows(
    block: nn.Module, rows: Tensor, hidden: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The block's output for `hidden` (batch, n, d) with `rows` (batch, k, d) in front, these cut off again."""
    out = block(torch.cat([rows.to(hidden.dtype), hidden], dim=1), *args, **kwargs)
    return out[:, rows.shape[1] :] if isinstance(out, Tensor) else (out[0][:, rows.shape[1] :], *out[1:])
