"""Verbalizers: from the scores of the whole vocabulary at the mask to one score a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from peftbench.errors import UsageError


def word_pieces(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """Ids of a label word as it stands inside a sentence, with a space in front (LM-BFF's rule)."""
    text = word if _is_wordpiece(tokenizer) else f" {word}"
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _is_wordpiece(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a leading space changes nothing."""
    plain, spaced = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("word", " word"))
    return plain == spaced


def check_words(
    tokenizer: PreTrainedTokenizerBase,
    words: Mapping[str, Sequence[str]],
    split_words: Literal["mean", "error"] | str,
    setting: str,
) -> tuple[dict[str, list[list[int]]], list[str]]:
    """Ids of every label word, and remarks on those that take several tokens.

    Args:
        words: label name -> its words.
        split_words: what to do about a word of several tokens.
        setting: where the words come from, for the messages.

    Raises:
        UsageError: a word is unknown to the tokenizer; one is split and `split_words` is "error"; two classes share
            all their words.
    """
    ids = {label: [word_pieces(tokenizer, word) for word in own] for label, own in words.items()}
    notes = []
    for label, own in words.items():
        for word, pieces in zip(own, ids[label], strict=True):
            shown = " ".join(tokenizer.convert_ids_to_tokens(pieces))
            if not pieces or tokenizer.unk_token_id in pieces:
                raise UsageError(
                    f"{setting}: the tokenizer does not know the label word `{word}` of `{label}` "
                    f"({shown or 'nothing'}). Choose another word, or a model of the word's language."
                )
            if len(pieces) > 1:
                notes.append(f"label word `{word}` of `{label}` is split into {shown}")
                if split_words == "error":
                    raise UsageError(
                        f"{setting}: {notes[-1]}, and there is one mask. Choose a word of one token, or "
                        "method.formulation.split_words=mean, which takes the mean of its tokens' scores at the mask."
                    )
    seen: dict[frozenset[tuple[int, ...]], str] = {}
    for label, pieces_of in ids.items():
        key = frozenset(tuple(pieces) for pieces in pieces_of)
        if key in seen:
            raise UsageError(f"{setting}: `{seen[key]}` and `{label}` have the same words for this tokenizer.")
        seen[key] = label
    return ids, notes


class WordScores(nn.Module):
    """(batch, vocabulary) scores -> (batch, classes, words): each word's score is the mean over its tokens.

    Classes with fewer words than others are padded; `mask` (classes, words) is False there and the score 0.
    """

    token_ids: Tensor
    token_mask: Tensor

    def __init__(self, ids: Sequence[Sequence[Sequence[int]]]) -> None:
        super().__init__()
        most, longest = max(map(len, ids)), max(len(pieces) for own in ids for pieces in own)
        shape = (len(ids), most, longest)
        token_ids, token_mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        for c, own in enumerate(ids):
            for w, pieces in enumerate(own):
                token_ids[c, w, : len(pieces)] = torch.tensor(pieces)
                token_mask[c, w, : len(pieces)] = True
        self.register_buffer("token_ids", token_ids, persistent=False)
        self.register_buffer("token_mask", token_mask, persistent=False)

    @property
    def mask(self) -> Tensor:
        """(classes, words): where there is a word."""
        return self.token_mask.any(-1)

    def forward(self, scores: Tensor) -> Tensor:
        picked = scores[:, self.token_ids] * self.token_mask
        return picked.sum(-1) / self.token_mask.sum(-1).clamp(min=1)


class MeanVerbalizer(nn.Module):
    """PET's: a class's score is the mean score of its words (2001.07676, section 3.1; several words: its code)."""

    def __init__(self, ids: Sequence[Sequence[Sequence[int]]]) -> None:
        super().__init__()
        self.words = WordScores(ids)

    def forward(self, scores: Tensor) -> Tensor:
        """(batch, vocabulary) -> (batch, classes)."""
        return self.words(scores).sum(-1) / self.words.mask.sum(-1)
