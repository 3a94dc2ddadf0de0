"""Means and differences with their interval, over draws, training seeds and test items. See docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftbench.results.statistics.samples import Cell, Sample, check_comparable, differences

LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """A mean score, or mean difference of scores, in percent points.

    Attributes:
        mean: over draws, of the mean over the training seeds of each draw.
        sd: standard deviation over runs (n - 1); None for a single run.
        low, high: the interval; None where nothing is known about the spread (one run without predictions).
        se, df: standard error and its degrees of freedom; the interval is mean -+ t(df) se, within what a score can be.
        sd_draws: standard deviation of the replications (draw means); None if there is one.
        se_items: standard error that comes from the test items alone; None if they are not known.
        p: two-sided p-value of "the mean is 0"; only for differences.
        n_draws, n_seeds, n_items: distinct draws, training seeds (greatest number in a draw) and test items.
        method: in words, what the interval covers: "draws and items", "seeds of one draw and items", "items only",
            "draws only", "none"; for unmatched differences ", not paired".
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    se: float | None
    df: float | None
    sd_draws: float | None
    se_items: float | None
    n_draws: int
    n_seeds: int
    n_items: int
    method: str
    p: float | None = None


def summarise(cells: Cell | Sequence[Cell], level: float = LEVEL) -> Summary:
    """Mean and interval of a cell, or of the plain mean over several cells (an average over languages).

    The tasks of several cells are taken as given, not as a sample of tasks; their draws and items are independent.
    """
    cells = [cells] if isinstance(cells, Cell) else list(cells)
    if not cells:
        raise ValueError("no cells to summarise")
    return estimate([(1 / len(cells), cell.sample) for cell in cells], level, bounds=_bounds(cells[0].metric))


def difference(a: Cell | Sequence[Cell], b: Cell | Sequence[Cell], level: float = LEVEL) -> Summary:
    """A minus B with interval and p-value, paired by test item and, where both have them, by draw.

    Without a common draw the draws count as independent (`method` ends in "not paired").

    Args:
        a, b: a cell, or as many cells as the other one (the same tasks in the same order).

    Raises:
        ValueError: metric or test items differ.
    """
    a, b = ([x] if isinstance(x, Cell) else list(x) for x in (a, b))
    terms: list[tuple[float, Sample]] = []
    paired = True
    for one, other in zip(a, b, strict=True):
        matched = differences(one, other)
        if matched is not None:
            terms.append((1 / len(a), matched))
        else:
            check_comparable(one, other)
            paired = False
            terms += [(1 / len(a), one.sample), (-1 / len(a), other.sample)]
    return estimate(terms, level, paired=paired, test=True)


def estimate(
    terms: Sequence[tuple[float, Sample]],
    level: float = LEVEL,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    paired: bool = True,
    test: bool = False,
) -> Summary:
    """The sum of coefficient x mean of sample, with its interval.

    The variance has two parts: between replications (s^2 / n of the draw means, n - 1 degrees of freedom) and of the
    test items (variance of the sum over resampled items; items are common to all runs, so one choice of items serves
    them all). Their sum has the degrees of freedom of Satterthwaite.
    """
    mean = sum(c * float(s.replications.mean()) for c, s in terms)
    between = [(c * c * float(s.replications.var(ddof=1)) / n, n - 1) for c, s in terms if (n := len(s.weights)) > 1]
    items = _item_variance(terms)
    se, df = _satterthwaite(between + items)
    low = high = p = None
    if se is not None and df is not None:
        half = _t_quantile(df, level) * se
        low, high = max(bounds[0], mean - half), min(bounds[1], mean + half)
        p = _t_two_sided(mean, se, df) if test else None
    samples = [s for _, s in terms]
    return Summary(
        mean=mean,
        sd=_pooled_sd(samples),
        low=low,
        high=high,
        se=se,
        df=df,
        sd_draws=math.sqrt(sum(v for v, _ in between) * min(len(s.weights) for s in samples)) if between else None,
        se_items=math.sqrt(items[0][0]) if items else None,
        p=p,
        n_draws=min(len(set(s.draws)) for s in samples),
        n_seeds=max(s.draws.count(d) for s in samples for d in set(s.draws)),
        n_items=sum(s.n_items for s in samples) if paired else samples[0].n_items,
        method=_method(samples, bool(between), bool(items)) + ("" if paired else ", not paired"),
    )


def _item_variance(terms: Sequence[tuple[float, Sample]]) -> list[tuple[float, int]]:
    """Variance of the whole sum from its items, with degrees of freedom; empty if items of a sample are unknown."""
    means = [c * m for c, s in terms if (m := s.resampled_means) is not None]
    if len(means) < len(terms):
        return []
    return [(float(np.var(np.sum(means, axis=0), ddof=1)), min(s.n_items for _, s in terms) - 1)]


def _satterthwaite(parts: Sequence[tuple[float, int]]) -> tuple[float | None, float | None]:
    """Standard error of a sum of independent variances, and its degrees of freedom."""
    if not parts:
        return None, None
    variance = sum(v for v, _ in parts)
    if variance == 0:
        return 0.0, float(min(df for _, df in parts))
    spread = sum(v * v / max(df, 1) for v, df in parts)
    return math.sqrt(variance), variance**2 / spread


def _t_quantile(df: float, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def _t_two_sided(mean: float, se: float, df: float) -> float:
    from scipy.special import stdtr

    if se == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(df, -abs(mean) / se))


def _pooled_sd(samples: Sequence[Sample]) -> float | None:
    variances = [float(s.scores.var(ddof=1)) for s in samples if len(s.scores) > 1]
    return math.sqrt(sum(variances) / len(variances)) if variances else None


def _method(samples: Sequence[Sample], between: bool, items: bool) -> str:
    unit = "draws" if any(s.unit == "draws" for s in samples) else "seeds of one draw"
    words = ([unit] if between else []) + (["items"] if items else [])
    return " and ".join(words) if len(words) == 2 else f"{words[0]} only" if words else "none"


def _bounds(metric: str) -> tuple[float, float]:
    """What a score in percent can be."""
    return (-100.0 if metric in ("mcc", "pearson", "spearman") else 0.0, 100.0)
