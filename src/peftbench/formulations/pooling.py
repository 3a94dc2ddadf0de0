"""One vector for a text, read off the hidden states of a bare stack of any family.

Of an encoder or a causal model it is pooled from the states of the text. Of an encoder-decoder it is either pooled from
the encoder's states (`mean`: Sentence-T5, Ni et al. 2021, arXiv 2108.08877, section 3.1) or the decoder's state at the
end of the text, which the decoder reads too, shifted right (`decoder_end`: BART, Lewis et al. 2019, arXiv 1910.13461,
section 3.1; `BartForSequenceClassification` and `T5ForSequenceClassification` of transformers).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.base import Backbone

DECODER_END = "decoder_end"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Reader:
    """Reads (batch, output_size) vectors, fp32 whatever the backbone's precision.

    Args:
        backbone: loaded for `features`.
        pooling: `mean`, `cls` or `last`; of an encoder-decoder `decoder_end` too.

    Raises:
        UsageError: the backbone has no decoder whose end could be read.
    """

    def __init__(self, backbone: Backbone, pooling: str) -> None:
        self.pooling, self.encoder_decoder = pooling, backbone.family == "seq2seq"
        if pooling == DECODER_END and not self.encoder_decoder:
            raise UsageError(
                f"pooling={DECODER_END}: model={backbone.name} is no encoder-decoder. Use mean, cls or last, or null "
                "for the model's own."
            )
        self.start: Any = backbone.model.config.decoder_start_token_id if self.encoder_decoder else None
        self.wraps = self.encoder_decoder and wraps_last_token(backbone.model)
        self.end = backbone.tokenizer.eos_token_id

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor], virtual_tokens: int = 0) -> Tensor:
        """One vector an item.

        Args:
            model: the backbone's, or what a tuner has made of it.
            batch: `input_ids` and `attention_mask` (batch, n), and `token_type_ids` where there are any.
            virtual_tokens: positions in front of the real ones, of encoders and causal models.
        """
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if not self.encoder_decoder:
            return pool(model(**inputs).last_hidden_state[:, virtual_tokens:].float(), mask, self.pooling)
        start = _at(ids, last(mask))[:, None] if self.wraps else torch.full_like(ids[:, :1], int(self.start))
        if self.pooling != DECODER_END:  # the decoder has to read something, and nobody reads it
            states = model(**inputs, decoder_input_ids=start).encoder_last_hidden_state
            return pool(states[:, -ids.shape[1] :].float(), mask, self.pooling)  # behind a tuner's virtual tokens
        states = model(**inputs, decoder_input_ids=torch.cat([start, ids[:, :-1]], dim=1)).last_hidden_state
        return _at(states.float(), last(self._ends(ids, mask)))

    def _ends(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(batch, n): where a text ends; its last token, if it has no end-of-sequence token."""
        ends = (ids == self.end) & mask.bool() if self.end is not None else torch.zeros_like(mask, dtype=torch.bool)
        return torch.where(ends.any(1, keepdim=True), ends, mask.bool())


def wraps_last_token(model: nn.Module) -> bool:
    """Whether a decoder is started with the last token of its text: mBART's language code. Read off the function with
    which the architecture shifts texts, as it asks for no token to start with."""
    module = inspect.getmodule(type(model))
    shift = getattr(module, "shift_tokens_right", None)
    return shift is not None and len(inspect.signature(shift).parameters) == 2


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(batch, n, d) and its (batch, n) mask of real tokens, on either side -> (batch, d)."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    return _at(hidden, mask.to(torch.int8).argmax(1) if pooling == "cls" else last(mask))


def last(mask: Tensor) -> Tensor:
    """(batch,) index of the last 1 in each row of a (batch, n) mask."""
    return mask.shape[1] - 1 - mask.flip(1).to(torch.int8).argmax(1)


def _at(hidden: Tensor, places: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), places]
