"""How many draws would show a difference?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from peftbench.statistics.intervals import Spread, Summary

MOST = 1000
_MIDPOINTS = (np.arange(250) + 0.5) / 250


@dataclass(frozen=True)
class Power:
    """What it takes to see a difference.

    Attributes:
        draws: draws in all (not further ones) for the asked power; None if more draws alone cannot do it, because the
            test set is too small for this difference, or more than `MOST` would be needed.
        power: with that many draws; with endless draws where `draws` is None.
        smallest_seen: the smallest difference, in percent points, that the present draws would show with that power.
    """

    draws: int | None
    power: float
    smallest_seen: float


def draws_needed(
    difference: Summary, size: float | None = None, power: float = 0.8, alpha: float = 0.05
) -> Power | None:
    """Draws (seeds, where those are what varies) with which the test of `difference` finds a true difference of `size`.

    Args:
        difference: of two cells; its spread over draws and items is taken as the true one.
        size: percent points; default: the difference seen. (Taking the seen difference for the true one is optimistic
            when it was selected for being large.)

    None if there are fewer than two of them, so that the spread is not known, or `size` is 0.
    """
    size = abs(difference.mean if size is None else size)
    if difference.sd_draws is None or size == 0:
        return None
    now = max(2, difference.n_replications)
    smallest = _smallest(difference, now, power, alpha)
    endless = power_of(difference, size, 10**6, alpha)
    if power_of(difference, size, MOST, alpha) < power:
        return Power(None, endless, smallest)
    low, high = 1, MOST  # power grows with draws
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(difference, size, middle, alpha) >= power else (middle, high)
    return Power(high, power_of(difference, size, high, alpha), smallest)


def power_of(difference: Summary, size: float, draws: int, alpha: float = 0.05) -> float:
    """Probability that the two-sided test finds a true difference of `size` points with so many draws."""
    between, df_between = (difference.sd_draws or 0.0) ** 2 / draws, max(1.0, _df_per_draw(difference) * (draws - 1))
    items, df_items = (difference.se_items or 0.0) ** 2, max(1, difference.n_items - 1)
    if between + items == 0:
        return 1.0
    limit = Spread(((between, df_between), (items, df_items))).limit(1 - alpha)
    df = (between + items) ** 2 / (between**2 / df_between + items**2 / df_items)  # Satterthwaite's
    shift = abs(size) / math.sqrt(between + items)
    return _beyond(limit, df, shift) + _beyond(limit, df, -shift)


def _beyond(limit: float, df: float, shift: float) -> float:
    """P(T > limit) of a noncentral t: over midpoints of the chi-square's quantiles, sound for any shift."""
    from scipy.special import gammaincinv, ndtr

    spread = np.sqrt(2 * gammaincinv(df / 2, _MIDPOINTS) / df)
    return float(ndtr(shift - limit * spread).mean())


def _df_per_draw(difference: Summary) -> float:
    """Degrees of freedom that a further draw adds: 1 in a cell, more in a mean over several."""
    return (difference.df_draws or 1.0) / max(1, difference.n_replications - 1)


def _smallest(difference: Summary, draws: int, power: float, alpha: float) -> float:
    low, high = 0.0, 1.0
    while power_of(difference, high, draws, alpha) < power and high < 1e4:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(difference, middle, draws, alpha) >= power else (middle, high)
    return high
