"""Permutation tests of the difference of two cells, and the correction for making many of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peftbench.statistics.samples import SEED, Cell, Sample, _generator, check_comparable, match

PERMUTATIONS = 9_999
_EXACT = 14
"""Up to so many replications all sign flips are enumerated (2^14 = 16,384)."""
_TOLERANCE = 1e-9
"""Relative; statistics that are equal on paper count as equal."""


@dataclass(frozen=True)
class PermutationTest:
    """A two-sided test that two methods are exchangeable.

    Attributes:
        p: share of permutations whose difference is at least as large, the observed one included.
        smallest_p: the smallest p that this test could have given.
        exact: all permutations were tried, not a random sample of them.
        n: what was permuted: items, or replications (draws).
    """

    difference: float
    p: float
    smallest_p: float
    exact: bool
    n: int


def permute_items(a: Cell, b: Cell, permutations: int = PERMUTATIONS, seed: int = SEED) -> PermutationTest | None:
    """Would these very models differ so much on other items? The answers of A and B to random items are exchanged.

    An item is exchanged in all matched runs at once, because its answers in different runs depend on each other. The
    statistic is the mean difference over the matched runs (`match`). None if no run has a match or items are unknown.
    """
    check_comparable(a, b)
    pairs = match(a, b)
    if not pairs or not a.n_items or not b.n_items:
        return None
    weights = Sample(np.zeros(len(pairs)), tuple(x.draw for x, _ in pairs)).weights.mean(axis=0)
    swap = _coin_flips(a.items_sha, permutations, a.n_items, seed)
    observed, permuted = 0.0, np.zeros(permutations)
    for weight, (x, y) in zip(weights, pairs, strict=True):
        assert x.scorer is not None
        assert y.scorer is not None
        mine, others = x.scorer.swapped(y.scorer, swap)
        observed += float(weight) * (x.score - y.score)
        permuted += weight * (mine - others)
    hits = int(_as_large(permuted, observed).sum())
    return PermutationTest(observed, (hits + 1) / (permutations + 1), 1 / (permutations + 1), False, a.n_items)


def flip_signs(differences: ArrayLike, permutations: int = PERMUTATIONS, seed: int = SEED) -> PermutationTest:
    """Would other draws differ so much? The sign of each replication's difference is flipped.

    Exact for up to 14 replications. With n of them p cannot be below 2^(1-n): 0.25 with 3 draws, 0.031 with 6.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if n == 0:
        raise ValueError("no differences")
    observed = float(values.mean())
    if n <= _EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
        p = float(_as_large(signs @ values / n, observed).mean())
        return PermutationTest(observed, p, 2.0 ** (1 - n), True, n)
    signs = np.where(_coin_flips("signs", permutations, n, seed), -1, 1)
    hits = int(_as_large(signs @ values / n, observed).sum())
    return PermutationTest(observed, (hits + 1) / (permutations + 1), 1 / (permutations + 1), False, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: compare with the level as if each were the only test (Holm, 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted.tolist()


def _coin_flips(name: str, rows: int, columns: int, seed: int) -> NDArray[np.bool_]:
    """[rows, columns], laid out by column, because few columns are picked from it."""
    bits = _generator(name + "/permutations", seed).integers(0, 256, (columns, -(-rows // 8)), dtype=np.uint8)
    return np.unpackbits(bits, axis=1, count=rows).view(np.bool_).T


def _as_large(permuted: NDArray[np.floating], observed: float) -> NDArray[np.bool_]:
    return np.abs(permuted) >= abs(observed) - _TOLERANCE * max(1.0, abs(observed))
