"""Many methods at once: who is tied with whom, and average ranks over many tasks."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peftbench.statistics.intervals import difference
from peftbench.statistics.permutation import holm
from peftbench.statistics.samples import Cell

ALPHA = 0.05


@dataclass(frozen=True)
class Ties:
    """Which of several methods differ.

    Attributes:
        letters: name -> letters; two methods that share a letter are not told apart (compact letter display). "a" is
            the group of the best.
        best: the best method and those not told apart from it.
        p: (name, name) -> Holm-adjusted p-value, both orders.
    """

    letters: dict[str, str]
    best: frozenset[str]
    p: dict[tuple[str, str], float]


@dataclass(frozen=True)
class Ranking:
    """Average ranks over blocks (tasks, languages); rank 1 is the best.

    Attributes:
        ranks: name -> average rank, best first.
        p: of Friedman's test that all methods are alike.
        cd: Nemenyi's critical difference: ranks that differ by more are told apart. None for the Wilcoxon-Holm way.
        groups: cliques of names that are not told apart, best first: the bars of a critical-difference diagram.
        n_blocks: number of blocks.
    """

    ranks: dict[str, float]
    p: float
    cd: float | None
    groups: list[list[str]]
    n_blocks: int


def ties(cells: Mapping[str, Cell | Sequence[Cell]], alpha: float = ALPHA) -> Ties:
    """Compare every pair of methods by `intervals.difference`, with Holm's correction over all pairs.

    Pairs whose spread is unknown (one run each, no predictions) count as tied.

    Raises:
        ValueError: metrics or test items differ.
    """
    names = sorted(cells, key=lambda name: -_mean(cells[name]))
    pairs = list(combinations(names, 2))
    raw = [difference(cells[x], cells[y]).p for x, y in pairs]
    adjusted = holm([1.0 if p is None else p for p in raw])
    p = dict(zip(pairs, adjusted, strict=True))
    p |= {(y, x): value for (x, y), value in p.items()}
    best = frozenset(n for n in names if n == names[0] or p[names[0], n] > alpha)
    return Ties(letters(names, {pair for pair in p if p[pair] <= alpha}), best, p)


def _mean(cells: Cell | Sequence[Cell]) -> float:
    cells = [cells] if isinstance(cells, Cell) else cells
    return float(np.mean([cell.sample.replications.mean() for cell in cells]))


def letters(names: Sequence[str], different: set[tuple[str, str]]) -> dict[str, str]:
    """Compact letter display by insert and absorb (Piepho, 2004).

    Args:
        names: best first.
        different: pairs that are told apart (either order).
    """
    groups = [frozenset(names)]
    for x, y in combinations(names, 2):
        if (x, y) in different or (y, x) in different:
            split = [g - {gone} for g in groups if {x, y} <= g for gone in (x, y)]
            groups = _absorb([g for g in groups if not {x, y} <= g] + split)
    groups.sort(key=lambda g: sorted(names.index(n) for n in g))
    return {n: "".join(_letter(i) for i, g in enumerate(groups) if n in g) for n in names}


def _absorb(groups: list[frozenset[str]]) -> list[frozenset[str]]:
    unique = list(dict.fromkeys(groups))
    return [g for g in unique if not any(g < other for other in unique)]


def _letter(i: int) -> str:
    """a ... z, aa, ab ..."""
    return (_letter(i // 26 - 1) if i >= 26 else "") + string.ascii_lowercase[i % 26]


def average_ranks(scores: ArrayLike) -> NDArray[np.floating]:
    """Average rank of each column (method) of [blocks, methods] scores; the highest score has rank 1, ties share."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(scores, dtype=float), axis=1).mean(axis=0)


def nemenyi_difference(methods: int, blocks: int, alpha: float = ALPHA) -> float:
    """Critical difference of average ranks (Demsar, 2006): q sqrt(k (k + 1) / (6 n))."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def rank(names: Sequence[str], scores: ArrayLike, alpha: float = ALPHA, test: str = "wilcoxon") -> Ranking:
    """Average ranks with the methods that are not told apart.

    Args:
        scores: [blocks, methods] mean scores of each task (or task and shots), columns as in `names`; no gaps.
        test: "wilcoxon" (signed-rank tests of all pairs with Holm's correction) or "nemenyi".

    Raises:
        ValueError: fewer than two blocks or methods, or a gap.
    """
    table = np.asarray(scores, dtype=float)
    blocks, methods = table.shape
    if methods < 2 or blocks < 2 or not np.isfinite(table).all():
        raise ValueError("average ranks need at least two methods with a score in each of at least two blocks")
    mean = average_ranks(table)
    order = np.argsort(mean, kind="stable")
    cd = nemenyi_difference(methods, blocks, alpha) if test == "nemenyi" else None
    apart = _apart_nemenyi(mean, cd) if cd is not None else _apart_wilcoxon(table, alpha)
    ordered = [names[i] for i in order]
    named = {(names[i], names[j]) for i, j in apart}
    return Ranking({names[i]: float(mean[i]) for i in order}, _friedman(table), cd, _cliques(ordered, named), blocks)


def _friedman(table: NDArray[np.floating]) -> float:
    """p of Friedman's test, 1 if all methods tie everywhere; two methods: the sign-flip free Wilcoxon is used."""
    from scipy.stats import friedmanchisquare, wilcoxon

    if (table == table[:, :1]).all():
        return 1.0
    if table.shape[1] == 2:
        return float(wilcoxon(table[:, 0], table[:, 1]).pvalue)
    return float(friedmanchisquare(*table.T).pvalue)


def _apart_nemenyi(mean: NDArray[np.floating], cd: float) -> set[tuple[int, int]]:
    return {(i, j) for i, j in combinations(range(len(mean)), 2) if abs(mean[i] - mean[j]) > cd}


def _apart_wilcoxon(table: NDArray[np.floating], alpha: float) -> set[tuple[int, int]]:
    from scipy.stats import wilcoxon

    pairs = list(combinations(range(table.shape[1]), 2))
    equal = [bool((table[:, i] == table[:, j]).all()) for i, j in pairs]
    raw = [
        1.0 if e else float(wilcoxon(table[:, i], table[:, j]).pvalue) for e, (i, j) in zip(equal, pairs, strict=True)
    ]
    return {pair for pair, p in zip(pairs, holm(raw), strict=True) if p <= alpha}


def _cliques(ordered: Sequence[str], apart: set[tuple[str, str]]) -> list[list[str]]:
    """Longest runs of neighbours, in order of rank, in which no pair is told apart; runs of one are left out."""
    found: list[list[str]] = []
    for start in range(len(ordered)):
        run = [ordered[start]]
        for name in ordered[start + 1 :]:
            if any((name, other) in apart or (other, name) in apart for other in run):
                break
            run.append(name)
        if len(run) > 1 and not any(set(run) <= set(other) for other in found):
            found.append(run)
    return found
