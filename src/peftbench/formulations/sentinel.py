"""Cloze for encoder-decoders that were pre-trained to fill sentinels (T5; Raffel et al. 2020, arXiv 1910.10683).

The encoder reads the pattern with `<extra_id_0>` in the place of the mask; the decoder is given `<extra_id_0>` and
asked how likely each label word is to follow. A word's score is the mean log-likelihood of its tokens (so that words of
several tokens are at no disadvantage; our reading), a class's the mean over its words. Loss as in `cloze`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.errors import UsageError
from peftbench.formulations.base import Batch
from peftbench.formulations.cloze import ClozeConfig
from peftbench.formulations.cloze.formulation import ClozeFormulation
from peftbench.models.base import Backbone
from peftbench.tasks.base import TaskData

SENTINEL = "<extra_id_0>"


class SentinelCloze(ClozeFormulation):
    """The encoder runs once a batch; the decoder once for all words of one token, and once more for each different
    beginning of the longer ones."""

    title = "cloze"
    sentinel = True

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: ClozeConfig) -> None:
        for key, only in (
            ("verbalizer", "manual"),
            ("calibration", "none"),
            ("train_head", False),
            ("demonstrations", 0),
            ("soft_pattern", False),
        ):
            if getattr(cfg, key) != only:
                raise UsageError(
                    f"method.formulation.{key}={getattr(cfg, key)}: needs a masked LM, such as model=minilm-mlm. "
                    f"With an encoder-decoder leave it at {str(only).lower()}."
                )
        super().__init__(backbone, task, max_length, cfg)
        self.starts = decoder_starts([pieces for own in self.word_ids.values() for pieces in own])

    def mask_token(self, backbone: Backbone) -> str:
        """The first sentinel.

        Raises:
            UsageError: the tokenizer has none.
        """
        unknown = (None, self.tokenizer.unk_token_id)
        if self.tokenizer.convert_tokens_to_ids(SENTINEL) in unknown:
            raise UsageError(
                f"model={backbone.name}: its tokenizer has no {SENTINEL}, so it was not trained to fill gaps in this "
                "way. Use method/formulation=score, or a T5 such as model=t5-base."
            )
        return SENTINEL

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, classes)."""
        words = self.word_likelihoods(model, batch)
        return torch.stack([torch.stack(own).mean(0) for own in words], dim=1)

    def word_likelihoods(self, model: nn.Module, batch: Batch) -> list[list[Tensor]]:
        """For each class, for each of its words: (batch,) mean log-likelihood of its tokens behind the sentinel."""
        likely: dict[tuple[int, ...], Tensor] = {}
        with encoder_once(model):
            for start in self.starts:
                likely[start] = self._next_tokens(model, batch, start)
        return [[self._mean_likelihood(likely, pieces) for pieces in own] for own in self.word_ids.values()]

    def _next_tokens(self, model: nn.Module, batch: Batch, start: tuple[int, ...]) -> Tensor:
        """(batch, len(start) + 1, vocabulary) log-probabilities of what follows the sentinel and 0, 1 ... tokens of
        `start`."""
        first = int(model.config.decoder_start_token_id)  # type: ignore[union-attr, arg-type]
        shape = (len(batch["input_ids"]), -1)
        ids = torch.tensor([first, self.encoder.mask_id, *start], device=batch["input_ids"].device).expand(shape)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return model(**inputs, decoder_input_ids=ids).logits[:, 1:].float().log_softmax(-1)

    @staticmethod
    def _mean_likelihood(likely: dict[tuple[int, ...], Tensor], pieces: list[int]) -> Tensor:
        start = next(start for start in likely if list(start[: len(pieces) - 1]) == pieces[:-1])
        return torch.stack([likely[start][:, place, token] for place, token in enumerate(pieces)]).mean(0)


def decoder_starts(words: list[list[int]]) -> list[tuple[int, ...]]:
    """What the decoder must be given so that every token of every word has been predicted: the words without their last
    tokens, less those that others begin with."""
    begun = sorted({tuple(pieces[:-1]) for pieces in words}, key=len, reverse=True)
    kept: list[tuple[int, ...]] = []
    for start in begun:
        if not any(longer[: len(start)] == start for longer in kept):
            kept.append(start)
    return kept


@contextmanager
def encoder_once(model: nn.Module) -> Iterator[None]:
    """Within the block the encoder runs in the first forward pass alone; the later ones, on the same inputs, are given
    what it returned then."""
    stack = next(m for m in model.modules() if isinstance(m, PreTrainedModel) and m.config.is_encoder_decoder)
    encoder = stack.get_encoder()
    forward, wrapped = encoder.forward, "forward" in vars(encoder)
    returned: list[Any] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        if not returned:
            returned.append(forward(*args, **kwargs))
        return returned[0]

    encoder.forward = once  # type: ignore[method-assign]
    try:
        yield
    finally:
        if wrapped:
            encoder.forward = forward  # type: ignore[method-assign]
        else:
            del encoder.forward
