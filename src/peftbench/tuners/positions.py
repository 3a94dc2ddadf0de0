"""Position ids that do not count padding.

transformers numbers positions from the start of the tensor unless it is told otherwise, so a left-padded text gets
other positions, and with learned positions (GPT-2) or a soft prompt in front other logits, the more padding it has.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.models.architecture import accepts


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """(batch, n) mask of real tokens -> (batch, n) int64: 0, 1, 2 ... over the real ones; 0 at leading padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def with_places_in_front(mask: Tensor, count: int) -> Tensor:
    """An attention mask with `count` more places in front, which everyone sees.

    It is (batch, n), 1 for real tokens; or (batch, 1, queries, n), true for what is seen, or 0 for it and the lowest
    number for what is not.
    """
    return F.pad(mask, (count, 0), value=0.0 if mask.is_floating_point() else 1)


def accepts_position_ids(model: nn.Module) -> bool:
    """Whether `model.forward` takes position ids at all (T5 and ALiBi models do not)."""
    return accepts(model, "position_ids")


def count_real_positions(model: nn.Module) -> None:
    """Make a left-padded causal model number its positions by the attention mask when the caller gives none."""
    if not accepts_position_ids(model):
        return

    def fill_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        if kwargs.get("position_ids") is None and mask is not None and mask.dim() == 2:
            new = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
            if new is not None:
                kwargs["position_ids"] = positions_from_mask(mask)[:, -new.shape[1] :]
        return args, kwargs

    model.register_forward_pre_hook(fill_in, with_kwargs=True)
