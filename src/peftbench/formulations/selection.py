"""Which labelled rows are shown before a row, and in which order. Free of torch but for the sentence encoder.

The pool are the drawn training rows. Of BM25 the constants are k1 = 1.5 and b = 0.75; texts become lower-case words
(runs of letters and digits, nothing left out, no stemming). Sources: Zhou et al., arXiv 2412.02279 (random, keyword,
semantic and hybrid choice for ABSA); the constants, the hybrid's halves and the nearest row last are our reading.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from peftbench.tasks.base import Row

Similar = Callable[[Sequence[str]], np.ndarray]
"""Texts -> (texts, d) vectors of length 1."""
K1, B = 1.5, 0.75


@dataclass
class Selector:
    """Chooses demonstrations from a pool.

    Attributes:
        pool: labelled rows.
        select: "random" (the same for all rows), "bm25", "semantic", or "hybrid": half by BM25, half semantic, in turn.
        count: how many; None: the whole pool.
        balance: whether classes take turns, each with its best row, until there are enough.
        order: "nearest_last", "nearest_first", or "random" in place of the rank.
        seed: of what is random, ties among them.
        similar: the sentence encoder; semantic and hybrid choice need it.
    """

    pool: Sequence[Row]
    select: str
    count: int | None
    balance: bool = False
    order: str = "nearest_last"
    seed: int = 0
    similar: Similar | None = None

    def __post_init__(self) -> None:
        mixed = np.random.RandomState(self.seed % 2**32).permutation(len(self.pool))
        self.pool = [self.pool[i] for i in mixed]  # so that ties have no order but chance
        texts = [row.whole for row in self.pool]
        self._marks = [mark(row) for row in self.pool]
        self._bm25 = Bm25(texts) if self.select in ("bm25", "hybrid") else None
        self._vectors = self.similar(texts) if self.similar is not None and texts else None

    def __call__(self, rows: Sequence[Row]) -> list[list[Row]]:
        """The demonstrations of each row, the best first: never the row itself, one with its text, one of its group."""
        if not self.pool or self.count == 0:
            return [[] for _ in rows]
        near = None
        if self.similar is not None and rows:
            near = self.similar([row.whole for row in rows]) @ np.asarray(self._vectors).T
        return [self._chosen(row, None if near is None else near[i]) for i, row in enumerate(rows)]

    def _chosen(self, row: Row, near: np.ndarray | None) -> list[Row]:
        ranks = [] if self._bm25 is None else [ranked(self._bm25(row.whole))]
        ranks += [] if near is None else [ranked(near)]
        own = mark(row)
        rank = [i for i in (in_turn(ranks) if ranks else range(len(self.pool))) if not self._is_own(row, own, i)]
        if self.balance:
            classes: dict[str, list[int]] = {}  # in the order of their best rows
            for i in rank:
                classes.setdefault(str(self.pool[i].target), []).append(i)
            rank = in_turn(list(classes.values()))
        return [self.pool[i] for i in rank[: self.count]]

    def _is_own(self, row: Row, own: str, place: int) -> bool:
        """Whether the row there says what `row`, with the mark `own`, says."""
        other = self.pool[place]
        return other.id == row.id or self._marks[place] == own or (row.group is not None and other.group == row.group)

    def ordered(self, row: Row, chosen: Sequence[Row]) -> list[Row]:
        """What was chosen for a row, in the order in which it is shown."""
        if self.order == "random":
            random = np.random.RandomState([self.seed % 2**32, zlib.crc32(row.id.encode())])
            return [chosen[i] for i in random.permutation(len(chosen))]
        return list(chosen if self.order == "nearest_first" else reversed(chosen))


class Bm25:
    """Scores of a corpus: the sum over the query's words q of IDF(q) f / (f + k1 (1 - b + b |d| / avg |d|)).

    IDF(q) = ln(1 + (N - n_q + 0.5) / (n_q + 0.5)). The factor k1 + 1, the same for all, is left out (Lucene's form).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        corpus = [words(text) for text in texts]
        self._size = len(corpus)
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B) if any(corpus) else None
        if self._index is not None:
            self._index.index(corpus, show_progress=False)

    def __call__(self, query: str) -> np.ndarray:
        """(texts,)."""
        asked = words(query)
        if self._index is None or not asked:
            return np.zeros(self._size)
        return np.asarray(self._index.get_scores(asked))


def words(text: str) -> list[str]:
    """What BM25 compares."""
    return re.findall(r"\w+", text.lower())


def mark(row: Row) -> str:
    """Equal for rows with the same first text, whatever its case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", row.text).casefold() or row.text


def ranked(scores: np.ndarray) -> list[int]:
    """Places by score, the highest first."""
    return np.argsort(-scores, kind="stable").tolist()


def in_turn(ranks: Sequence[Sequence[int]]) -> list[int]:
    """The first of each rank, then the second of each ..., without repeats: a rank whose turn it is gives its best that
    is not taken yet."""
    taken: dict[int, None] = {}
    left = [iter(rank) for rank in ranks]
    while left:
        for rank in list(left):
            found = next((i for i in rank if i not in taken), None)
            if found is None:
                left.remove(rank)
            else:
                taken[found] = None
    return list(taken)
