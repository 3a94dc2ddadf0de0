"""Means and differences with their interval, over draws, training seeds and test items. See docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftbench.statistics.samples import Cell, Sample, comparable, differences

LEVEL = 0.95
SIGNED = ("mcc", "pearson", "spearman", "bwt", "fwt")
"""Metrics that go from -100 to 100."""
BOUNDS = {
    **dict.fromkeys((*SIGNED, "reward"), (-100.0, 100.0)),
    **{"knowledge": (-100.0, math.inf), "kl": (0.0, math.inf)},
}
"""Least and greatest value, in percent, of a metric that does not go from 0 to 100."""


@dataclass(frozen=True)
class Summary:
    """A mean score, or mean difference of scores, in percent points.

    Attributes:
        mean: over draws, of the mean over the training seeds of each draw.
        sd: standard deviation over runs (n - 1); None for a single run.
        low, high: the interval; None where nothing is known about the spread (one run without predictions).
        se, df: standard error and its effective degrees of freedom: a difference reaches t(df) se to either side.
            None as above.
        sd_draws: standard deviation between replications (draw means; runs, if all have the same rows); None if there
            is one. Of several cells: that of their mean.
        df_draws: degrees of freedom of `sd_draws`.
        se_items: standard error that comes from the test items alone; None if they are not known.
        p: two-sided p-value of "the mean is 0"; only for differences.
        n_draws, n_seeds, n_items: distinct draws, training seeds (greatest number in a draw) and test items (or groups
            of items that depend on each other); of several cells the fewest draws, the most seeds, all items.
        n_replications: how many there are of what varies: draws, or seeds where all runs have the same rows.
        method: in words, what the interval covers: "draws and items", "seeds of one draw and items", "items only",
            "draws only", "none"; for differences without matched runs ", not paired".
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    se: float | None
    df: float | None
    sd_draws: float | None
    df_draws: float | None
    se_items: float | None
    n_draws: int
    n_seeds: int
    n_items: int
    n_replications: int
    method: str
    p: float | None = None


def summarise(cells: Cell | Sequence[Cell], level: float = LEVEL) -> Summary:
    """Mean and interval of a cell, or of the plain mean over several cells (an average over languages).

    The tasks of several cells are taken as given, not as a sample of tasks; their draws and items are independent.
    """
    cells = [cells] if isinstance(cells, Cell) else list(cells)
    if not cells:
        raise ValueError("no cells to summarise")
    bounds = BOUNDS.get(cells[0].metric, (0.0, 100.0))
    return estimate([(1 / len(cells), cell.sample) for cell in cells], level, bounds)


def difference(
    a: Cell | Sequence[Cell], b: Cell | Sequence[Cell], level: float = LEVEL, across: bool = False
) -> Summary:
    """A minus B with interval and p-value, paired by test item and, where both have them, by draw.

    Only matched runs are used; without any match (`match`) all are, and the draws count as independent (`method` then
    ends in "not paired").

    Args:
        a, b: a cell, or as many cells as the other one (the same tasks in the same order).
        across: cells of another metric or other test items are subtracted too, as independent numbers.

    Raises:
        ValueError: metric or test items differ, without `across`.
    """
    a, b = ([x] if isinstance(x, Cell) else list(x) for x in (a, b))
    terms: list[tuple[float, Sample]] = []
    paired = True
    for one, other in zip(a, b, strict=True):
        matched = None if across and not comparable(one, other) else differences(one, other)
        if matched is not None:
            terms.append((1 / len(a), matched))
        else:
            paired = False
            terms += [(1 / len(a), one.sample), (-1 / len(a), other.sample)]
    return estimate(terms, level, paired=paired)


def estimate(
    terms: Sequence[tuple[float, Sample]],
    level: float = LEVEL,
    bounds: tuple[float, float] | None = None,
    paired: bool = True,
) -> Summary:
    """The sum of coefficient x mean of sample, with its interval.

    The variance has two parts. Between replications: s^2 / n of the draw means. Of the test items: the variance of the
    whole sum over resampled items; the items are common to all runs, so one choice of items serves them all. See
    docs/statistics.md for why the two are joined as they are.

    Args:
        bounds: least and greatest value of a mean (of a cost: 0 and infinity); its interval stays within. None: a
            difference, which gets a p.
    """
    samples = [s for _, s in terms]
    mean = sum(c * float(s.replications.mean()) for c, s in terms)
    between = _between(terms)
    items = _items(terms)
    spread = Spread(tuple(part for part in (between, items) if part is not None))
    low, high = spread.interval(mean, level, bounds) if spread.parts else (None, None)
    replications = min(len(s.weights) for s in samples)
    return Summary(
        mean=mean,
        sd=_pooled_sd(samples),
        low=low,
        high=high,
        se=spread.se if spread.parts else None,
        df=spread.df(level) if spread.parts else None,
        sd_draws=math.sqrt(between[0] * replications) if between else None,
        df_draws=between[1] if between else None,
        se_items=math.sqrt(items[0]) if items else None,
        p=spread.p(mean) if spread.parts and bounds is None else None,
        n_draws=min(len(set(s.draws)) for s in samples),
        n_seeds=max(s.draws.count(d) for s in samples for d in set(s.draws)),
        n_items=sum(s.n_items for s in samples) // (1 if paired or bounds else 2),
        n_replications=replications,
        method=_method(samples, between is not None, items is not None) + ("" if paired else ", not paired"),
    )


@dataclass(frozen=True)
class Spread:
    """Independent variances with their degrees of freedom: `parts` of (variance, df).

    The limit of t is the mean of the parts' own limits, weighted by variance (Cochran and Cox). Unlike Satterthwaite's
    approximation it keeps its word with three draws; docs/statistics.md has the simulation.
    """

    parts: tuple[tuple[float, float], ...]

    @property
    def se(self) -> float:
        """The standard error of the sum: the root of all variances together."""
        return math.sqrt(sum(v for v, _ in self.parts))

    def limit(self, level: float) -> float:
        """How many standard errors the interval reaches to either side."""
        from scipy.special import stdtrit

        total = sum(v for v, _ in self.parts)
        weights = [v / total if total else 1 / len(self.parts) for v, _ in self.parts]
        tail = (1 + level) / 2
        return sum(w * float(stdtrit(df, tail)) for w, (_, df) in zip(weights, self.parts, strict=True))

    def df(self, level: float) -> float:
        """Degrees of freedom at which t has this limit."""
        from scipy.special import stdtridf

        return float(stdtridf((1 + level) / 2, self.limit(level)))

    def interval(self, mean: float, level: float, bounds: tuple[float, float] | None) -> tuple[float, float]:
        """Symmetric; on the scale of log odds (of logarithms) where there are bounds, so that it cannot leave them."""
        half = self.limit(level) * self.se
        if bounds is None:
            return mean - half, mean + half
        least, width = bounds[0], bounds[1] - bounds[0]
        if math.isinf(width):
            factor = math.exp(half / (mean - least)) if mean > least else 1.0
            return least + (mean - least) / factor, least + (mean - least) * factor
        share = (mean - least) / width
        if not 0 < share < 1:
            return self._at_the_end(mean, level, bounds)
        odds, reach = math.log(share / (1 - share)), half / (width * share * (1 - share))
        return (least + width * _logistic(odds - reach), least + width * _logistic(odds + reach))

    def _at_the_end(self, mean: float, level: float, bounds: tuple[float, float]) -> tuple[float, float]:
        """All right, or all wrong: no resample differs, yet n right answers do not show that the next one is right."""
        n = max(df for _, df in self.parts) + 1
        possible = (bounds[1] - bounds[0]) * (1 - ((1 - level) / 2) ** (1 / n))
        return (mean - possible, mean) if mean >= bounds[1] else (mean, mean + possible)

    def p(self, mean: float) -> float:
        """Two-sided: 1 - level of the interval that just reaches 0."""
        if self.se == 0:
            return 1.0 if mean == 0 else 0.0
        distance, low, high = abs(mean) / self.se, 0.0, 1.0
        for _ in range(60):
            level = (low + high) / 2
            low, high = (low, level) if self.limit(level) > distance else (level, high)
        return 1 - low


def _between(terms: Sequence[tuple[float, Sample]]) -> tuple[float, float] | None:
    """Variance between replications; that of several cells has Satterthwaite's degrees of freedom.

    None if a sample has one replication only, for the spread of the sum is then not known.
    """
    parts = [(c * c * float(s.replications.var(ddof=1)) / n, n - 1) for c, s in terms if (n := len(s.weights)) > 1]
    if len(parts) < len(terms):
        return None
    variance = sum(v for v, _ in parts)
    spread = sum(v * v / df for v, df in parts)
    return variance, variance**2 / spread if spread else float(min(df for _, df in parts))


def _items(terms: Sequence[tuple[float, Sample]]) -> tuple[float, float] | None:
    """Variance from the test items; None if the items of a sample are not known."""
    means = [c * m for c, s in terms if (m := s.resampled_means) is not None]
    if len(means) < len(terms):
        return None
    return float(np.var(np.sum(means, axis=0), ddof=1)), max(1, min(s.n_items for _, s in terms) - 1)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _pooled_sd(samples: Sequence[Sample]) -> float | None:
    variances = [float(s.scores.var(ddof=1)) for s in samples if len(s.scores) > 1]
    return math.sqrt(sum(variances) / len(variances)) if variances else None


def _method(samples: Sequence[Sample], between: bool, items: bool) -> str:
    unit = "draws" if any(s.unit == "draws" for s in samples) else "seeds of one draw"
    words = ([unit] if between else []) + (["items"] if items else [])
    return " and ".join(words) if len(words) == 2 else f"{words[0]} only" if words else "none"
