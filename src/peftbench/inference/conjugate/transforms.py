"""Invertible forms of texts. Free of torch.

The authors' Leetspeak is not injective (a digit may be a letter or itself) and their Pig Latin cannot be undone; ours
have a mark for what would be ambiguous, so that undoing gives every text back.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping

from peftbench.errors import UsageError

_LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}
_MARK = "^"
_LETTERS = re.compile("[A-Za-z]+")
_ONSET = re.compile("(qu|[^aeiou])*", re.IGNORECASE)
_PAIR = re.compile("([A-Za-z]+)-([A-Za-z]*)ay(?![A-Za-z])")


class Transform(ABC):
    """Another form of texts: `undo(do(text)) == text` for every text."""

    @abstractmethod
    def do(self, text: str) -> str:
        """The text in the other form."""

    @abstractmethod
    def undo(self, text: str) -> str:
        """The text of which this is the other form; of what is none, whatever comes of it."""

    def is_image(self, text: str) -> bool:
        """Whether it is the other form of a text."""
        return self.do(self.undo(text)) == text


class Leetspeak(Transform):
    """Small letters that look like digits are digits; a digit that stands for none, and the mark, have `^` in front.

    >>> Leetspeak().do("at 7 on site"), Leetspeak().undo("47 ^7 0n 5173")
    ('47 ^7 0n 5173', 'at 7 on site')
    """

    def __init__(self) -> None:
        marked = (_MARK, *_LEET.values())
        self._table = str.maketrans({**_LEET, **{digit: _MARK + digit for digit in marked}})
        self._back = {digit: letter for letter, digit in _LEET.items()}

    def do(self, text: str) -> str:
        return text.translate(self._table)

    def undo(self, text: str) -> str:
        return re.sub(r"\^(.)|(.)", lambda m: m[1] or self._back.get(m[2], m[2]), text, flags=re.DOTALL)


class PigLatin(Transform):
    """The consonants that a word begins with go to its end, with a hyphen and `ay`; a word without vowels keeps them.

    >>> PigLatin().do("The team, again"), PigLatin().undo("e-Thay eam-tay, again-ay")
    ('e-Thay eam-tay, again-ay', 'The team, again')
    """

    def do(self, text: str) -> str:
        return _LETTERS.sub(self._word, text)

    @staticmethod
    def _word(found: re.Match[str]) -> str:
        word = found[0]
        onset = _ONSET.match(word)
        cut = onset.end() if onset is not None and onset.end() < len(word) else 0
        return f"{word[cut:]}-{word[:cut]}ay"

    def undo(self, text: str) -> str:
        return _PAIR.sub(lambda m: m[2] + m[1], text)


class Parallel(Transform):
    """Texts for which others are given, as in another language.

    Args:
        others: text -> the other one; no two texts have the same.
        where: the file, for messages.
    """

    def __init__(self, others: Mapping[str, str], where: str) -> None:
        self._others, self._where = dict(others), where
        self._back = {other: text for text, other in others.items()}
        if len(self._back) < len(self._others):
            twice = next(text for text, other in others.items() if self._back[other] != text)
            raise UsageError(f"{where}: `{twice[:60]}` and another text have the same `other`, so it cannot be undone.")

    def do(self, text: str) -> str:
        if text and text not in self._others:
            raise UsageError(
                f"{self._where}: has no line for the text `{text[:60]}`. Every text that is asked needs one."
            )
        return self._others.get(text, text)

    def undo(self, text: str) -> str:
        return self._back.get(text.strip(), text)

    def is_image(self, text: str) -> bool:
        return text.strip() in self._back


CIPHERS: dict[str, type[Transform]] = {"leetspeak": Leetspeak, "pig_latin": PigLatin}
