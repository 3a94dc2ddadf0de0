"""Interpolated n-gram models over token ids, with additive smoothing. Free of torch.

p_n(v | context) = (c(context v) + k) / (c(context) + k V), V being the size of the vocabulary; an order whose context
was never seen has no say. Smoothing and weights are our choice of what the source (arXiv 2601.16224) leaves open.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

Context = tuple[int, ...]
KEPT = 64
"""Contexts whose distributions, of the size of the vocabulary each, are held at a time."""


class Order(NamedTuple):
    """What one order says behind a context that it has seen.

    Attributes:
        context: the tokens that it looks at.
        weight: of the order.
        counts: token -> how often it followed.
        total: their sum.
    """

    context: Context
    weight: float
    counts: Counter[int]
    total: int


class NgramModel:
    """Counts of 1-grams, 2-grams ... in sequences of token ids.

    Args:
        sequences: n-grams do not reach from one into the next.
        weights: of the orders, from 1-grams on.
        smoothing: k.
        vocabulary: V, tokens that there are.
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], weights: Sequence[float], smoothing: float, vocabulary: int
    ) -> None:
        self.weights, self.smoothing, self.vocabulary = tuple(weights), smoothing, vocabulary
        self._counts: list[dict[Context, Counter[int]]] = [defaultdict(Counter) for _ in weights]
        for sequence in sequences:
            for place, token in enumerate(sequence):
                for n, counts in enumerate(self._counts):
                    if place >= n:
                        counts[tuple(sequence[place - n : place])][token] += 1
        self._shares = lru_cache(KEPT)(self._log_probabilities)
        self._totals = [{context: own.total() for context, own in counts.items()} for counts in self._counts]

    def orders(self, before: Sequence[int]) -> Iterator[Order]:
        """The orders that have seen the end of `before`, the shortest first."""
        for n, (weight, counts) in enumerate(zip(self.weights, self._counts, strict=True)):
            context = tuple(before[len(before) - n :])
            if weight and len(context) == n and context in counts:
                yield Order(context, weight, counts[context], self._totals[n][context])

    def _log_probabilities(self, context: Context) -> np.ndarray:
        """(V,) of the order that looks at this context, which it has seen; the exponentials add up to 1."""
        n, known = len(context), self._counts[len(context)][context]
        norm = math.log(self._totals[n][context] + self.smoothing * self.vocabulary)
        found = np.full(self.vocabulary, math.log(self.smoothing) - norm)
        tokens = np.fromiter(known, dtype=np.int64)
        counts = np.fromiter(known.values(), dtype=np.float64)
        found[tokens] = np.log(counts + self.smoothing) - norm
        return found

    def bias(self, before: Sequence[int]) -> np.ndarray:
        """(V,): the weighted sum of the orders' log-probabilities behind `before`."""
        found = np.zeros(self.vocabulary)
        for order in self.orders(before):
            found += order.weight * self._shares(order.context)
        return found

    def log_likelihood(self, sequence: Sequence[int]) -> float:
        """Of a sequence, in nats: the sum over its tokens of ln of the interpolated probability, the mean of the orders
        that have seen the context, by their weights; 0 of an empty model."""
        return sum(self._log(sequence[:place], token) for place, token in enumerate(sequence))

    def _log(self, before: Sequence[int], token: int) -> float:
        known = list(self.orders(before))
        if not known:
            return -math.log(self.vocabulary)
        k, size = self.smoothing, self.vocabulary
        mixed = sum(o.weight * (o.counts.get(token, 0) + k) / (o.total + k * size) for o in known)
        return math.log(mixed / sum(o.weight for o in known))

    def perplexity(self, sequences: Sequence[Sequence[int]]) -> float:
        """exp of the negative mean over all tokens of `log_likelihood`'s terms; nan without tokens."""
        tokens = sum(map(len, sequences))
        return math.exp(-sum(map(self.log_likelihood, sequences)) / tokens) if tokens else math.nan
