"""Unlabelled text of a language: what of it stands in evaluation texts, and what of it is held out. Free of torch."""

from __future__ import annotations

import hashlib
import re
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from peftbench.tasks.readers import read_text

RUN = 30
"""Characters in a row that a sentence may not share with an evaluation text."""
LINES = 20
"""Neighbouring lines of a file that count as one document."""
LONGEST = 400
"""Characters above which a sentence is cut, as in a text without full stops."""
HELD_OUT = 20
"""One document in so many is held out."""
CHUNK, ROUGH = 1 << 20, 24
"""Characters that are looked up at a time, and bits of a hash that a first look goes by."""
MULTIPLIER = 0x9E3779B97F4A7C15
SENTENCE_END = re.compile(r"(?<=[.!?\u1362\u1367])\s+")
"""Full stop, exclamation and question mark, Ethiopic full stop and question mark."""

Document = list[str]
"""Sentences, or lines, that stood one behind the other."""


def document(text: str) -> Document:
    """A text in its sentences, or in pieces of `LONGEST` characters; white space made single spaces."""
    sentences = (" ".join(part.split()) for part in SENTENCE_END.split(text.strip()))
    return [piece for sentence in sentences if sentence for piece in pieces(sentence)]


def pieces(sentence: str) -> list[str]:
    """It in pieces of at most `LONGEST` characters, cut at spaces."""
    return [sentence] if len(sentence) <= LONGEST else textwrap.wrap(sentence, LONGEST, break_long_words=False)


def read_lines(path: Path) -> list[Document]:
    """A file with one sentence a line, in documents of `LINES` lines."""
    lines = [" ".join(line.split()) for line in read_text(path).split("\n")]
    lines = [line for line in lines if line]
    return [lines[start : start + LINES] for start in range(0, len(lines), LINES)]


def is_held_out(found: Document) -> bool:
    """Whether a document is held out: told by its first line alone, so that everybody who asks holds out the same."""
    return bool(found) and zlib.crc32(found[0].encode("utf-8", "surrogatepass")) % HELD_OUT == 0


def unshared(documents: Sequence[Document], texts: Iterable[str]) -> list[Document]:
    """Each document without the sentences that share `RUN` characters in a row with one of the `texts`, which are for
    evaluation. Compared in lower case, runs of white space as one space; the texts are looked at one by one."""
    sentences = [_plain(sentence) for found in documents for sentence in found]
    runs = _runs("\n".join(sentences))  # one across two sentences has the line feed, which no text has
    known = np.unique(runs)
    seen, rough = np.zeros(len(known), bool), np.zeros(1 << ROUGH, bool)
    rough[known >> np.uint64(64 - ROUGH)] = True
    for text in texts:
        plain = _plain(text)
        for start in range(0, len(plain), CHUNK):
            found = _runs(plain[start : start + CHUNK + RUN - 1])
            found = found[rough[found >> np.uint64(64 - ROUGH)]]  # most are told apart by their first bits
            places = np.searchsorted(known, found)
            seen[places[known[np.minimum(places, len(known) - 1)] == found]] = True
    starts = np.cumsum([0, *(len(sentence) + 1 for sentence in sentences)])[:-1]
    hits = np.flatnonzero(seen[np.searchsorted(known, runs)])
    shared = set((np.searchsorted(starts, hits, side="right") - 1).tolist())
    numbers = iter(range(len(sentences)))
    return [[sentence for sentence in found if next(numbers) not in shared] for found in documents]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _runs(text: str) -> np.ndarray:
    """One uint64 hash, a polynomial in `MULTIPLIER`, for every `RUN` characters in a row; put together from those of 1,
    2, 4 ... characters."""
    part = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    count, whole, length, width = len(part), np.zeros(len(part), np.uint64), 0, 1
    if count < RUN:
        return np.empty(0, np.uint64)
    while width <= RUN:
        factor = np.uint64(pow(MULTIPLIER, width, 1 << 64))
        if RUN & width:
            end = count - length - width + 1
            whole, length = whole[:end] * factor + part[length : length + end], length + width
        part, width = part[:-width] * factor + part[width:], 2 * width
    return whole


def limited(documents: Sequence[Document], characters: int | None) -> list[Document]:
    """As many of the documents as have so many characters, or a little more; None: all. They are taken in an order that
    a hash of them decides, and stay in their own."""
    if characters is None:
        return list(documents)
    taken: set[int] = set()
    for number in sorted(range(len(documents)), key=lambda i: zlib.crc32(_bytes(documents[i]))):
        if characters > 0:
            taken.add(number)
            characters -= size([documents[number]])
    return [found for number, found in enumerate(documents) if number in taken]


def size(documents: Iterable[Document]) -> int:
    """Characters."""
    return sum(len(text) for found in documents for text in found)


def sha256(documents: Iterable[Document]) -> str:
    """Of the texts and how they are divided."""
    digest = hashlib.sha256()
    for found in documents:
        digest.update(_bytes(found) + b"\n\n")
    return digest.hexdigest()


def _bytes(found: Document) -> bytes:
    return "\n".join(found).encode("utf-8", "surrogatepass")
