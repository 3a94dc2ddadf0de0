"""What may be written, and how it is chosen: constraints and sampling as transformers' processors of logits.

Both see the whole text so far. The prompt's columns, which a network fed with embeddings leaves out, are counted when
the first token is chosen.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from peftbench.errors import UsageError
from peftbench.formulations.trie import Trie


class OnlyFrom(LogitsProcessor):
    """Only the sequences of a trie can be written; behind a whole one the padding goes on."""

    def __init__(self, trie: Trie, end: int) -> None:
        self.trie, self.end, self.start = trie, end, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.start = input_ids.shape[1] if self.start < 0 else self.start
        allowed = torch.full_like(scores, float("-inf"))
        for row, ids in enumerate(input_ids[:, self.start :].tolist()):
            following = self.trie.following(ids) or [self.end]
            allowed[row, following] = scores[row, following]
        return allowed


class OnlyTuples(LogitsProcessor):
    """Only what a grammar lets through can be written: each row has its own (`tasks.tuple_formats.grammar_of`).

    Args:
        tokenizer: llguidance's (`guided_tokenizer`).
        grammars: of each row.
        end: the token behind an answer.
    """

    def __init__(self, tokenizer: Any, grammars: Sequence[str], end: int) -> None:
        from llguidance import LLMatcher

        self.matchers, self.end, self.start = [LLMatcher(tokenizer, text) for text in grammars], end, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.start = input_ids.shape[1] if self.start < 0 else self.start
        written = input_ids[:, self.start :]
        allowed = torch.full_like(scores, float("-inf"))
        for row, matcher in enumerate(self.matchers):
            if written.shape[1] and not matcher.is_stopped():
                matcher.consume_token(int(written[row, -1]))
            following = [self.end] if matcher.is_stopped() else np.frombuffer(matcher.compute_logit_bias(), np.uint8)
            places = following if isinstance(following, list) else np.flatnonzero(following).tolist()
            allowed[row, places] = scores[row, places]
        return allowed


def guided_tokenizer(tokenizer: PreTrainedTokenizerBase, end: int) -> Any:
    """A tokenizer as llguidance reads it.

    Raises:
        UsageError: llguidance does not know this kind of tokenizer.
    """
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer, eos_token=end, slices=[])  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"method.formulation.constrain=tuples: not for this tokenizer ({error}). Use constrain=none."
        ) from None


class Draw(LogitsProcessor):
    """Adds Gumbel noise, so that the likeliest token is a sample from softmax(logits / temperature) (Gumbel-max trick).

    The noise of a text's n-th token follows from the seed, the text's id and n alone, so that a sample is the same in
    any batch and on any machine.
    """

    def __init__(self, ids: Sequence[str], seed: int, temperature: float) -> None:
        self.keys, self.temperature, self.step = [zlib.crc32(i.encode()) for i in ids], temperature, 0
        self.seed = seed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([self._noise(key, scores.shape[-1]) for key in self.keys])
        self.step += 1
        return scores / self.temperature + torch.from_numpy(noise).to(scores)

    def _noise(self, key: int, width: int) -> np.ndarray:
        uniform = np.random.RandomState([self.seed % 2**32, key, self.step]).random_sample(width)
        return -np.log(-np.log(np.clip(uniform, 1e-12, 1 - 1e-12)))
