"""Averaged word vectors, from a text file as fastText, GloVe and word2vec write it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from peftbench.errors import UsageError
from peftbench.stages.base import Context
from peftbench.stages.classical.features import Features, whole_text
from peftbench.tasks.base import Row

WORD = re.compile(r"\w+")


class WordVectorFeatures(Features):
    """The mean of the vectors of a text's words, each as often as it occurs; zeros for a text without a known word.

    A word that the file does not have in its case is looked for in lower case. The file is read once for each set of
    rows, and only the vectors of their words are kept.
    """

    def __init__(self, context: Context) -> None:
        file = context.cfg.method.options("classical").file
        if file is None:
            raise UsageError(
                "method.classical.file: features=word_vectors need a text file of vectors, a word and its numbers a "
                "line: method.classical.file=cc.sw.300.vec."
            )
        self.path = Path(file)
        self.vectors: dict[str, np.ndarray] = {}
        self.looked_up: set[str] = set()
        self.width = 0
        self.known = self.words = 0

    def transform(self, rows: Sequence[Row]) -> np.ndarray:
        texts = [WORD.findall(whole_text(row)) for row in rows]
        self._look_up({form for text in texts for word in text for form in (word, word.lower())})
        out = np.zeros((len(rows), self.width), dtype=np.float32)
        for i, text in enumerate(texts):
            found = [v for word in text if (v := self.vectors.get(word, self.vectors.get(word.lower()))) is not None]
            self.words, self.known = self.words + len(text), self.known + len(found)
            if found:
                out[i] = np.mean(found, axis=0)
        return out

    def remarks(self) -> list[str]:
        return [f"{self.path.name} has a vector for {100 * self.known / max(1, self.words):.0f} % of the words"]

    def _look_up(self, words: set[str]) -> None:
        missing = words - self.looked_up
        self.looked_up |= missing
        if missing or not self.width:
            for word, vector in read_vectors(self.path, missing):
                self.width = len(vector)
                if word in missing:
                    self.vectors.setdefault(word, vector)


def read_vectors(path: Path, words: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Each of `words` that the file has, with its vector (d,), fp32; and the file's first word in any case.

    A first line of two numbers (how many words, d) is passed over.

    Raises:
        UsageError: a line is no word with d numbers, or the file is no text.
    """
    width = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                word, *numbers = line.rstrip().split(" ")
                if number == 1 and len(numbers) == 1:
                    continue
                first, width = not width, width or len(numbers)
                if len(numbers) != width or not numbers:
                    raise UsageError(f"{path}, line {number}: {len(numbers)} numbers behind a word, not {width}.")
                if first or word in words:
                    yield word, _vector(numbers, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no UTF-8 text ({error.reason}). Give vectors as text (.vec, .txt).") from None
    if not width:
        raise UsageError(f"{path}: has no vectors.")


def _vector(numbers: Sequence[str], where: str) -> np.ndarray:
    try:
        vector = np.array(numbers, dtype=np.float32)
    except ValueError as error:
        raise UsageError(f"{where}: {error}.") from None
    if not np.isfinite(vector).all():
        raise UsageError(f"{where}: a number is not finite.")
    return vector
