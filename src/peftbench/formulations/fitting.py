"""Texts that are too long together: which of them gives way, and by how much. The label may depend on the shortest of
them (MultiRC's answer, ABSA's aspect), so no text is cut because of where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from peftbench.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Texts = Mapping[str, str]


class Cut(IntEnum):
    """What became of a row's texts: all there, one of them shortened, or nothing left of one that said something."""

    WHOLE = 0
    SHORTENED = 1
    EMPTIED = 2


def fit_texts(
    texts: Texts,
    ids_of: Callable[[Texts], Sequence[int]],
    limit: int,
    tokenizer: PreTrainedTokenizerBase,
    shorten: Literal["last", "longest"] | str = "longest",
    key: str = "trainer.max_length",
) -> tuple[Texts, Cut]:
    """`texts`, shortened at their ends until `ids_of` them are at most `limit`.

    Args:
        texts: name -> text, in the order in which they stand.
        ids_of: the ids of the whole into which the texts are put.
        shorten: which of them loses tokens: the `longest` or the `last` that is not empty.
        key: what the limit follows from, for the message.

    Raises:
        UsageError: there is no room even without the texts.
    """
    if len(ids_of(texts)) <= limit:
        return texts, Cut.WHOLE
    ends = {name: token_ends(tokenizer, text, limit) for name, text in texts.items()}
    lengths = {name: len(found) for name, found in ends.items()}
    while True:
        cut = {name: text[: ends[name][lengths[name] - 1]] if lengths[name] else "" for name, text in texts.items()}
        over = len(ids_of(cut)) - limit
        if over <= 0:
            emptied = any(text.strip() and not cut[name].strip() for name, text in texts.items())
            return cut, Cut.EMPTIED if emptied else Cut.SHORTENED
        if not any(lengths.values()):
            raise UsageError(
                f"{key} leaves {max(limit, 0)} tokens for a row, and what its text is put into takes "
                f"{over + limit}. Set {key} to {2 * (over + limit)} or more."
            )
        lengths = _shortened(lengths, over, shorten)


def _shortened(lengths: Mapping[str, int], over: int, shorten: str) -> dict[str, int]:
    """Lengths with `over` tokens fewer; never below 0."""
    left, order = dict(lengths), list(lengths)
    for _ in range(over):
        nonempty = [name for name in order if left[name]]
        if not nonempty:
            break
        loser = nonempty[-1] if shorten == "last" else max(reversed(nonempty), key=left.__getitem__)
        left[loser] -= 1
    return left


def token_ends(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> list[int]:
    """End (in characters) of each of the first `limit` tokens of a text. A tokenizer in pure Python does not say where
    its tokens end: there a text is cut at the ends of words."""
    if not tokenizer.is_fast:
        words = re.finditer(r"\S+\s*", text)
        counted = ((word.end(), len(tokenizer(word[0], add_special_tokens=False)["input_ids"])) for word in words)
        return [end for end, count in counted for _ in range(count)][:limit]
    encoding = tokenizer(
        text, add_special_tokens=False, truncation=True, max_length=max(limit, 1), return_offsets_mapping=True
    )
    return [end for _, end in encoding["offset_mapping"]]
