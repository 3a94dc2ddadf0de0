"""The tokens with which all prompts of a batch begin, read once for all of them: an instruction, or demonstrations that
are the same for every text.

Their keys and values are computed in a pass over one row and repeated; the rest of each prompt is read behind them, its
padding between the two. That is what the network computes for the whole prompts, up to rounding, where attention and
positions are what they are told (`scoring.PACKED`) and a token is read alike whether a prompt or an answer is going on.
What is shared is a matter of the batch alone, so that predictions stay the same on any number of processes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.models.architecture import accepts

LEAST = 16
"""A shorter beginning is read with each prompt: one more pass costs about as much."""


@dataclass
class SharedPrefix:
    """The common beginning of a batch's prompts, read.

    Attributes:
        ids: (length,) the tokens.
        cache: what the network keeps of them, for one row; virtual tokens in front, if the tuner has any.
        rest: the batch without them: `input_ids` and `attention_mask`, (batch, n - length), padded on the left.
    """

    ids: Tensor
    cache: Any
    rest: dict[str, Tensor]

    @property
    def length(self) -> int:
        """Tokens in front, without virtual ones."""
        return len(self.ids)

    def repeated(self, rows: int) -> Any:
        """A cache of its own for so many prompts."""
        found = copy.deepcopy(self.cache)
        found.batch_repeat_interleave(rows)
        return found

    def in_front(self, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (batch, length + m), of whole prompts whose rests are `part`, the padding
        between the two."""
        rows = len(part["input_ids"])
        first = {"input_ids": self.ids.expand(rows, -1)}
        first["attention_mask"] = torch.ones_like(first["input_ids"])
        return {name: torch.cat([first[name], part[name].to(first[name].dtype)], dim=1) for name in first}

    def inputs(self, part: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's arguments to read the rests `part` of some prompts behind the shared tokens."""
        mask = self.in_front(part)["attention_mask"]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": part["input_ids"],
            "attention_mask": mask,
            "position_ids": positions[:, self.length :],
            "past_key_values": self.repeated(len(mask)),
            "use_cache": True,
        }


def common_length(ids: Tensor, mask: Tensor) -> int:
    """How many tokens all of the left-padded prompts (batch, n) begin with; each keeps one of its own at least."""
    lengths = mask.long().sum(1)
    most = int(lengths.min()) - 1
    if len(ids) < 2 or most < 1:
        return 0
    places = torch.arange(most, device=ids.device) + (ids.shape[1] - lengths)[:, None]
    own = ids.gather(1, places)
    same = (own == own[:1]).all(0)
    return most if bool(same.all()) else int(same.int().argmin())


def read_shared(
    model: nn.Module, network: PreTrainedModel, prompts: Mapping[str, Tensor], least: int = LEAST
) -> SharedPrefix | None:
    """The beginning that left-padded prompts have in common, read by the tuned `model`.

    Returns:
        None if it has fewer than `least` tokens, if gradients or dropout are at work, or if the network keeps no cache.
    """
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    if model.training or torch.is_grad_enabled() or len(ids) < 2:
        return None
    length = common_length(ids, mask)
    if length < max(least, 1):
        return None
    first = ids[0, mask[0].bool()][:length]
    only_last = {"logits_to_keep": 1} if accepts(network, "logits_to_keep") else {}
    one = first[None]
    cache = model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=True, **only_last).past_key_values
    if cache is None:
        return None
    width = int(mask.long().sum(1).max()) - length
    lengths = mask.long().sum(1, keepdim=True) - length
    real = torch.arange(width, device=ids.device) >= width - lengths
    return SharedPrefix(first, cache, {"input_ids": ids[:, -width:], "attention_mask": real.to(mask.dtype)})
