"""Cloze patterns: a row becomes one text with exactly one mask, whatever its length.

A pattern is a text with placeholders: `{mask}`; `{text}` and `{pair}`, the row's texts; and the names of the row's
`parts` (`{headline}`, `{article}` in MasakhaNEWS). `{text:cut}` loses its last character, whatever that is, and
`{pair:lower}` starts in lower case, as LM-BFF writes sentence pairs; `{text:bare}` loses a punctuation mark at its end.
Only placeholders are ever shortened: the mask and the words of the pattern stay.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations.fitting import Cut, Texts, fit_texts
from peftbench.tasks.base import Row

MASK = "mask"
CHANGES = {
    "cut": lambda text: text[:-1],
    "bare": lambda text: text[:-1] if text[-1:] in string.punctuation else text,
    "lower": lambda text: text[:1].lower() + text[1:],
}
PLACEHOLDER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")


@dataclass(frozen=True)
class Placeholder:
    """`{name:change}` of a pattern."""

    name: str
    change: str | None


class Pattern:
    """One pattern, filled by rows.

    Args:
        template: the pattern's text.
        shorten: which part loses tokens when a text is too long: `last` (the last that is not empty) or `longest`.

    Raises:
        UsageError: no mask or several, no text at all, or an unknown placeholder.
    """

    def __init__(self, template: str, shorten: str = "longest") -> None:
        self.template, self.shorten = template, shorten
        self.pieces: list[str | Placeholder] = []
        end = 0
        for found in PLACEHOLDER.finditer(template):
            self.pieces += [template[end : found.start()], Placeholder(found[1], found[2])]
            end = found.end()
        self.pieces.append(template[end:])
        self.names = [p.name for p in self.pieces if isinstance(p, Placeholder) and p.name != MASK]
        masks = sum(isinstance(p, Placeholder) and p.name == MASK for p in self.pieces)
        if masks != 1 or not self.names:
            raise UsageError(
                f"the pattern `{template}` has {masks} {{mask}} and {len(self.names)} texts; it needs exactly one "
                "{mask} and at least one of {text}, {pair} or a part of the task's rows."
            )
        for piece in self.pieces:
            if isinstance(piece, Placeholder) and piece.change is not None and piece.change not in CHANGES:
                raise UsageError(
                    f"the pattern `{template}`: {{{piece.name}:{piece.change}}} is unknown. "
                    f"{did_you_mean(piece.change, CHANGES)}"
                )

    def texts(self, row: Row) -> dict[str, str]:
        """Placeholder name -> the row's text for it.

        Raises:
            UsageError: the row has no such text.
        """
        known = {"text": row.text, **({"pair": row.pair} if row.pair is not None else {}), **(row.parts or {})}
        for name in self.names:
            if name not in known:
                raise UsageError(
                    f"the pattern `{self.template}`: the task's rows have no {{{name}}}. {did_you_mean(name, known)}"
                )
        return {name: known[name] for name in self.names}

    def fill(self, texts: Texts, word: str) -> str:
        """The pattern's text with `texts` and with `word` in the place of the mask."""
        return "".join(self.filled_pieces(texts, word)).strip()

    def filled_pieces(self, texts: Texts, word: str) -> list[str]:
        """What stands in the place of each of `pieces`."""
        filled = []
        for piece in self.pieces:
            if isinstance(piece, str):
                filled.append(piece)
            elif piece.name == MASK:
                filled.append(word)
            else:
                filled.append(CHANGES[piece.change](texts[piece.name]) if piece.change else texts[piece.name])
        return filled


class PatternEncoder:
    """Turns rows into ids of at most `max_length` tokens with the pattern's words and mask all there.

    `mask` is the text that stands for the mask: the tokenizer's mask token, or a sentinel.
    """

    def __init__(
        self, pattern: Pattern, tokenizer: PreTrainedTokenizerBase, max_length: int, mask: str, prefix: str = ""
    ) -> None:
        self.pattern, self.tokenizer, self.max_length = pattern, tokenizer, max_length
        self.mask, self.prefix = mask, prefix
        self.mask_id: int = tokenizer.convert_tokens_to_ids(mask)  # type: ignore[assignment]
        empty = len(self._ids(dict.fromkeys(pattern.names, "")))
        if empty >= max_length:
            raise UsageError(
                f"trainer.max_length={max_length}: the pattern `{pattern.template}` alone takes {empty} tokens. "
                f"Set trainer.max_length to {2 * empty} or more."
            )

    def of_length(self, max_length: int) -> PatternEncoder:
        """The same for inputs of at most `max_length` tokens."""
        return PatternEncoder(self.pattern, self.tokenizer, max_length, self.mask, self.prefix)

    def encode(self, row: Row, tail: str = "") -> tuple[list[int], Cut]:
        """Ids of the row, with exactly one mask, and what became of its texts. `tail` is put behind the
        filled pattern and never shortened."""
        texts, cut = self._fitted(row, lambda texts: self._ids(texts, tail), self.max_length)
        return self._ids(texts, tail), cut

    def encode_word(self, row: Row, word: str) -> tuple[list[int], Cut, list[int]]:
        """Like `encode`, with `word` in the place of the mask, and the places of its tokens."""
        texts, cut = self._fitted(row, lambda texts: self._ids(texts, "", word), self.max_length)
        ids, masked = self._ids(texts, "", word), self._ids(texts)
        start = _shared(ids, masked)
        return ids, cut, list(range(start, len(ids) - _shared(ids[start:][::-1], masked[start:][::-1])))

    def literal_ids(self) -> list[list[int]]:
        """The tokens of each of the pattern's own pieces, as they are between words."""
        texts = dict.fromkeys(self.pattern.names, "word")
        ids = self._ids(texts)
        return [[ids[place] for place in places] for places in self._literal_places(texts)]

    def literal_places(self, row: Row) -> list[list[int]]:
        """Where the tokens of each of the pattern's own pieces stand in `encode(row)`."""
        return self._literal_places(self._fitted(row, self._ids, self.max_length)[0])

    def _literal_places(self, texts: Texts) -> list[list[int]]:
        pieces = self.pattern.filled_pieces(texts, self.mask)
        whole = "".join(pieces)
        start = len(self.prefix) - (len(whole) - len(whole.lstrip()))
        offsets = self.tokenizer(self.prefix + whole.strip(), return_offsets_mapping=True, verbose=False)
        found = []
        for piece, text in zip(self.pattern.pieces, pieces, strict=True):
            end = start + len(text)
            if isinstance(piece, str):
                spans = enumerate(offsets["offset_mapping"])
                found.append([place for place, (a, b) in spans if start <= a < b <= end])
            start = end
        return found

    def fill(self, row: Row, word: str, length: int) -> str:
        """The pattern filled with the row and with `word`, its texts shortened so that it takes at most `length`
        tokens, special tokens not counted."""

        def ids(texts: Texts) -> list[int]:
            found: list[int] = self.tokenizer(self.pattern.fill(texts, word), add_special_tokens=False)["input_ids"]
            return found

        return self.pattern.fill(self._fitted(row, ids, length)[0], word)

    def _fitted(self, row: Row, ids_of: Callable[[Texts], Sequence[int]], limit: int) -> tuple[Texts, Cut]:
        """The row's texts, shortened as the pattern set says until `ids_of` them are at most `limit`."""
        texts = {name: self._plain(text) for name, text in self.pattern.texts(row).items()}
        return fit_texts(texts, ids_of, limit, self.tokenizer, self.pattern.shorten)

    def _ids(self, texts: Texts, tail: str = "", word: str | None = None) -> list[int]:
        filled = f"{self.prefix}{self.pattern.fill(texts, self.mask if word is None else word)}{tail}"
        ids: list[int] = self.tokenizer(filled, truncation=False, verbose=False)["input_ids"]
        return ids

    def _plain(self, text: str) -> str:
        """A text in which the mask's own name is written apart, so that it cannot pass for the mask."""
        return text.replace(self.mask, f"{self.mask[0]} {self.mask[1:-1]} {self.mask[-1]}")


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def single_mask(ids: Sequence[int], mask_id: int, row_id: str) -> int:
    """The place of the mask in `ids`. Raises ValueError unless there is exactly one."""
    places = [place for place, token in enumerate(ids) if token == mask_id]
    if len(places) != 1:
        raise ValueError(f"row {row_id}: {len(places)} masks after filling the pattern")
    return places[0]
