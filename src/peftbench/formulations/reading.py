"""Labels read from what a model wrote. Free of torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

SEVERAL = "answers named several labels"


def read_table(texts: Mapping[str, str]) -> dict[str, str]:
    """What may be written -> the label that it stands for: the label's own text, and the same but for case, spaces and
    a final full stop where that is no other label too."""
    loose = Counter(normalise(text) for text in texts.values())
    table = {normalise(text): label for label, text in texts.items() if loose[normalise(text)] == 1}
    return table | {text: label for label, text in texts.items()}


def normalise(text: str) -> str:
    """Lower case, single spaces, no final full stop: differences that do not make an answer another label."""
    return " ".join(text.lower().split()).rstrip(".")


class LabelReader:
    """Reads free answers ("Category: sports.", "I think it is Sports"): the first label that is named.

    It is named by whole words, whatever their case and what stands around them. An answer that names none is None.

    Attributes:
        several: answers that named more than one label, of which the first was taken.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        """`texts`: label name -> its words."""
        self.whole = read_table(texts)
        words = {normalise(text): label for label, text in texts.items() if normalise(text)}
        self.words = {text: words[text] for text in sorted(words, key=len, reverse=True)}  # the longer of two first
        named = "|".join(re.escape(text).replace(r"\ ", r"\s+") for text in self.words)
        self._named = re.compile(rf"(?<!\w)(?:{named})(?!\w)", re.IGNORECASE)
        self.several = 0

    def __call__(self, text: str) -> str | None:
        """The label, or None."""
        if (whole := self.whole.get(text.strip()) or self.whole.get(normalise(text))) is not None:
            return whole
        found = [self.words[normalise(match[0])] for match in self._named.finditer(text)]
        self.several += len({*found}) > 1
        return found[0] if found else None

    def only(self, text: str) -> str | None:
        """The label that it names and no other beside it, or None."""
        named = {self.words[normalise(match[0])] for match in self._named.finditer(text)}
        return self.whole.get(normalise(text)) or (named.pop() if len(named) == 1 else None)

    def remarks(self) -> list[str]:
        """What a reader of the result must know."""
        return [f"{self.several} {SEVERAL}; the first counts"] if self.several else []
