"""A task's metric as a function of which items are counted, and how often, so that thousands of resamples cost one
matrix product.

Nearly every metric is a function of sums over items (a confusion count, a moment): `LinearScorer` keeps each item's
share in those sums. What is not (rank correlation) is computed anew for each resample by `BatchScorer`. Invalid
predictions count as `peftbench.tasks.problems` says; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.problems import kind
from peftbench.tasks.problems.base import Answers, BatchMetric, GroupMetric, SumMetric, UniqueMetric, ratio

Floats = NDArray[np.floating]
_CHUNK = 8_000_000
"""Numbers that one block of a computation may hold."""


@dataclass(frozen=True)
class Items:
    """What is known of the test items, the same for every run of a cell.

    Attributes:
        targets: the right answers, by item; of a kind that is `sourced`, a `Sourced` each.
        labels: label names in the task's order (empty unless the task is a classification).
        problem: kind of the targets, as in the record.
        score_range: (low, high) of a regression's score; None: that of the targets.
        groups: items of one group depend on each other and are resampled together; None is a group by itself.
    """

    targets: tuple[Any, ...]
    labels: tuple[str, ...] = ()
    problem: str = "classification"
    score_range: tuple[float, float] | None = None
    groups: tuple[Hashable | None, ...] | None = None

    def units(self) -> NDArray[np.intp]:
        """For each item the number of the unit it is resampled with; units count from 0."""
        if self.groups is None:
            return np.arange(len(self.targets))
        numbers: dict[Hashable, int] = {}
        keys = (("item", i) if g is None else ("group", g) for i, g in enumerate(self.groups))
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.intp)


@dataclass(frozen=True)
class Resamples:
    """Choices of units with replacement: `chosen` [resamples, units] holds unit numbers."""

    chosen: NDArray[np.intp]

    @cached_property
    def counts(self) -> Floats:
        """[resamples, units]: how often each unit occurs."""
        units = self.chosen.shape[1]
        rows = np.arange(len(self.chosen))[:, None] * units
        flat = np.bincount((rows + self.chosen).ravel(), minlength=self.chosen.size)
        return flat.reshape(self.chosen.shape).astype(np.float32)


class Scorer(Protocol):
    """The metric of one run, in percent, under other choices of its test items."""

    def score(self) -> float:
        """On the items as they are."""

    def resampled(self, resamples: Resamples) -> Floats:
        """One score a resample."""

    def swapped(self, other: Any, swap: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Scores of this run and of `other` after they exchanged the answers of the units where `swap` is true.

        `swap` is [permutations, units]; both results have one score a permutation.
        """


@dataclass(frozen=True)
class LinearScorer(Scorer):
    """A metric that is `value(sum of features over the items)`.

    Attributes:
        features: [units, sums]: what each unit adds to each sum.
        value: [..., sums] -> [...], a fraction.
    """

    features: Floats
    value: Callable[[Floats], Floats]

    def score(self) -> float:
        return 100 * float(self.value(self.features.sum(axis=0, dtype=np.float64)))

    def resampled(self, resamples: Resamples) -> Floats:
        def values(counts: NDArray[Any]) -> Floats:
            return self.value(_sums(counts, self.features))

        return 100 * _in_blocks(values, resamples.counts, self.features.shape[1])

    def swapped(self, other: LinearScorer, swap: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        change = other.features - self.features
        differ, sums = change.any(axis=1), change.any(axis=0)  # where the answers agree an exchange changes nothing
        mine, others = (s.features.sum(axis=0, dtype=np.float64) for s in (self, other))

        def both(swapped: NDArray[np.bool_]) -> Floats:
            moved = np.zeros((len(swapped), change.shape[1]))
            moved[:, sums] = _sums(swapped.T[differ].T, change[differ][:, sums])
            return np.stack([self.value(mine + moved), self.value(others - moved)], axis=1)

        first, second = _in_blocks(both, swap, change.shape[1]).T
        return 100 * first, 100 * second


@dataclass(frozen=True)
class BatchScorer(Scorer):
    """A metric of whole columns: `value(targets, predictions)`, both [samples, items], gives [samples] fractions."""

    targets: Floats
    predictions: Floats
    value: Callable[[Floats, Floats], Floats]

    def score(self) -> float:
        return 100 * float(self.value(self.targets[None], self.predictions[None])[0])

    def resampled(self, resamples: Resamples) -> Floats:
        return 100 * _in_blocks(lambda c: self.value(self.targets[c], self.predictions[c]), resamples.chosen)

    def swapped(self, other: BatchScorer, swap: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        def both(s: NDArray[np.bool_]) -> Floats:
            truth = np.broadcast_to(self.targets, s.shape)
            mine = self.value(truth, np.where(s, other.predictions, self.predictions))
            return np.stack([mine, self.value(truth, np.where(s, self.predictions, other.predictions))], axis=1)

        mine, others = _in_blocks(both, swap).T
        return 100 * mine, 100 * others


@dataclass(frozen=True)
class UniqueScorer(Scorer):
    """A `UniqueMetric`.

    Attributes:
        things: what the answers of each unit hold.
    """

    things: tuple[tuple[Hashable, ...], ...]

    def score(self) -> float:
        return 100 * float(self._share(np.ones((1, len(self.things)), np.float32), *self._counted(self.things))[0])

    def resampled(self, resamples: Resamples) -> Floats:
        return 100 * self._share(resamples.counts, *self._counted(self.things))

    def swapped(self, other: UniqueScorer, swap: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        counted = self._counted(self.things + other.things)
        both = (np.hstack([~swap, swap]), np.hstack([swap, ~swap]))
        mine, others = (100 * self._share(chosen.astype(np.float32), *counted) for chosen in both)
        return mine, others

    @staticmethod
    def _counted(things: Sequence[Sequence[Hashable]]) -> tuple[Any, Floats]:
        """[units, different things] how often each is there (sparse), and [units] how many there are."""
        from scipy.sparse import csr_matrix

        numbers: dict[Hashable, int] = {}
        columns = [numbers.setdefault(thing, len(numbers)) for unit in things for thing in unit]
        sizes = np.array([len(unit) for unit in things], dtype=np.float64)
        starts = np.concatenate([[0], sizes.cumsum()]).astype(int)
        ones = np.ones(len(columns), np.float32)
        return csr_matrix((ones, columns, starts), shape=(len(things), len(numbers))), sizes

    @staticmethod
    def _share(weights: Floats, counts: Any, sizes: Floats) -> Floats:
        """[samples] of [samples, units]: how often each unit is counted."""
        from scipy.sparse import csr_matrix

        rows = max(1, _CHUNK // max(1, counts.shape[1]))
        blocks = [weights[start : start + rows] for start in range(0, len(weights), rows)]
        different = np.concatenate([np.diff((csr_matrix(block) @ counts).indptr) for block in blocks])
        return different / np.maximum(weights @ sizes, 1)


def scorer(metric: str, items: Items, predictions: Sequence[Any]) -> Scorer:
    """The scorer of one run.

    Args:
        metric: one of the built-in ones of the kind of targets.
        items: the test items.
        predictions: for each item what its kind of targets is; None is invalid.

    Raises:
        UsageError: no such metric for this kind of problem, or it needs what `items` does not say.
    """
    if len(predictions) != len(items.targets):
        raise ValueError(f"{len(predictions)} predictions for {len(items.targets)} items")
    known = kind(items.problem).metrics
    if metric not in known:
        raise UsageError(f"metric `{metric}`: not one of a {items.problem} task. {did_you_mean(metric, known)}")
    declared = known[metric]
    if isinstance(declared, SumMetric):
        return _of_sums(declared, items, predictions)
    if isinstance(declared, BatchMetric):
        return _of_columns(metric, declared, items, predictions)
    if isinstance(declared, UniqueMetric):
        held: list[list[Hashable]] = [[] for _ in range(int(items.units().max()) + 1)]
        for unit, prediction in zip(items.units(), predictions, strict=True):
            held[unit] += declared.things(prediction)
        return UniqueScorer(tuple(map(tuple, held)))
    if isinstance(declared, GroupMetric):
        answers = Answers(items.targets, predictions, groups=items.groups or ())
        values = declared.of_groups(answers).astype(np.float32)
        return LinearScorer(np.stack([values, np.ones_like(values)], axis=1), ratio)
    return _MAKERS[items.problem][metric](items, predictions)


def _of_sums(metric: SumMetric, items: Items, predictions: Sequence[Any]) -> Scorer:
    rows = [metric.counts(*pair) for pair in zip(items.targets, predictions, strict=True)]
    return LinearScorer(_by_unit(np.array(rows, dtype=np.float32), items), metric.value)


# Classification: a row of features is [right by class | answered by class | true by class].


def _classes(
    items: Items, predictions: Sequence[Any], invalid_is_other: bool = False
) -> tuple[NDArray[np.float32], int]:
    """Features of `_accuracy` and the F1 family, by unit; an invalid answer is in no class's column."""
    ids = {label: i for i, label in enumerate(items.labels)}
    truth = np.array([ids[t] for t in items.targets])
    guess = np.array([ids.get(p, -1) if isinstance(p, str) else -1 for p in predictions])
    k = len(ids)
    if invalid_is_other:
        if k != 2:
            raise UsageError(f"metric `f1_binary` needs two labels; the task has {k}.")
        guess = np.where(guess < 0, 1 - truth, guess)
    rows = np.arange(len(truth))
    features = np.zeros((len(truth), 3 * k), dtype=np.float32)
    features[rows, truth] = truth == guess
    valid = guess >= 0
    features[rows[valid], k + guess[valid]] = 1
    features[rows, 2 * k + truth] = 1
    return _by_unit(features, items), k


def _thirds(sums: Floats) -> tuple[Floats, Floats, Floats]:
    k = sums.shape[-1] // 3
    return sums[..., :k], sums[..., k : 2 * k], sums[..., 2 * k :]


def _accuracy(sums: Floats) -> Floats:
    right, _, true = _thirds(sums)
    return right.sum(-1) / true.sum(-1)


def _f1_by_class(sums: Floats) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """F1, whether the class is there at all, and its true count; [..., classes] each."""
    right, answered, true = _thirds(sums)
    there = answered + true
    return 2 * right / np.maximum(there, 1), there > 0, true


def _f1_macro(sums: Floats) -> Floats:
    f1, there, _ = _f1_by_class(sums)
    return f1.sum(-1) / np.maximum(there.sum(-1), 1)


def _f1_weighted(sums: Floats) -> Floats:
    f1, _, true = _f1_by_class(sums)
    return (f1 * true).sum(-1) / true.sum(-1)


def _f1_last(sums: Floats) -> Floats:
    return _f1_by_class(sums)[0][..., -1]


def _mcc(sums: Floats) -> Floats:
    """Gorodkin's R_K. Invalid answers are one more class: answered, never true."""
    right, answered, true = _thirds(sums.astype(np.float64))
    n = true.sum(-1)
    invalid = n - answered.sum(-1)
    both = right.sum(-1) * n - (answered * true).sum(-1)
    spread = (n**2 - (answered**2).sum(-1) - invalid**2) * (n**2 - (true**2).sum(-1))
    return np.where(spread > 0, both / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


def _classification(value: Callable[[Floats], Floats], invalid_is_other: bool = False) -> Callable[..., Any]:
    def make(items: Items, predictions: Sequence[Any]) -> Scorer:
        return LinearScorer(_classes(items, predictions, invalid_is_other)[0], value)

    return make


def _exact_match_group(items: Items, predictions: Sequence[Any]) -> Scorer:
    """A unit is a group, so it is right or wrong as a whole."""
    if items.groups is None:
        raise UsageError(
            "metric `exact_match_group`: the stored predictions do not say which rows belong together. "
            "Repeat the runs with `rerun=true`."
        )
    wrong = np.array([[t != p] for t, p in zip(items.targets, predictions, strict=True)], dtype=np.float64)
    right = (_by_unit(wrong, items) == 0).astype(np.float32)
    return LinearScorer(np.hstack([right, np.ones_like(right)]), ratio)


# Correlations


def _scores(items: Items, predictions: Sequence[Any]) -> tuple[Floats, Floats]:
    """Targets and predicted scores; an invalid one becomes the end of the range that is farther from the target."""
    truth = np.array(items.targets, dtype=np.float64)
    low, high = items.score_range or (truth.min(), truth.max())
    valid = [isinstance(p, (int, float)) and math.isfinite(p) for p in predictions]
    given = np.array([p if v else 0.0 for p, v in zip(predictions, valid, strict=True)], dtype=np.float64)
    return truth, np.where(valid, given, np.where(truth - low > high - truth, low, high))


def _pearson(items: Items, predictions: Sequence[Any]) -> Scorer:
    """The sums are the moments about the mean target, which all runs share, so that little cancels."""
    truth, guess = _scores(items, predictions)
    truth, guess = truth - np.mean(items.targets), guess - np.mean(items.targets)
    moments = np.stack([np.ones_like(truth), truth, guess, truth**2, guess**2, truth * guess], axis=1)
    return LinearScorer(_by_unit(moments, items), _correlation)


def _correlation(moments: Floats) -> Floats:
    n, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    defined = (spread_x > 1e-12 * n * n) & (spread_y > 1e-12 * n * n)
    return np.where(defined, (n * xy - x * y) / np.sqrt(np.where(defined, spread_x * spread_y, 1)), 0.0)


def _spearman(items: Items, predictions: Sequence[Any]) -> Scorer:
    return _of_columns("spearman", BatchMetric(_rank_correlation), items, predictions)


def _of_columns(name: str, metric: BatchMetric, items: Items, predictions: Sequence[Any]) -> Scorer:
    if items.groups is not None and any(g is not None for g in items.groups):
        raise UsageError(f"metric `{name}`: resampling by groups of items is not supported.")
    return BatchScorer(*_scores(items, predictions), metric.value)


def _rank_correlation(truth: Floats, guess: Floats) -> Floats:
    from scipy.stats import rankdata

    centred = [rankdata(x, axis=1) - (x.shape[1] + 1) / 2 for x in (truth, guess)]
    both = (centred[0] * centred[1]).sum(1)
    spread = (centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1)
    return np.where(spread > 0, both / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


# Metrics that are no `SumMetric`, by kind of targets.
_MAKERS: dict[str, dict[str, Callable[[Items, Sequence[Any]], Scorer]]] = {
    "classification": {
        "accuracy": _classification(_accuracy),
        "f1_macro": _classification(_f1_macro),
        "f1_weighted": _classification(_f1_weighted),
        "f1_binary": _classification(_f1_last, invalid_is_other=True),
        "mcc": _classification(_mcc),
        "exact_match_group": _exact_match_group,
    },
    "regression": {"pearson": _pearson, "spearman": _spearman},
}


def _by_unit(features: Floats, items: Items) -> Any:
    """Rows of one unit added up: [items, sums] -> [units, sums]."""
    if items.groups is None:
        return features
    units = items.units()
    total = np.zeros((units.max() + 1, features.shape[1]), dtype=features.dtype)
    np.add.at(total, units, features)
    return total


def _sums(weights: NDArray[Any], features: Floats) -> Floats:
    """`weights @ features` as float64; blocks keep the memory bounded. Counts are exact in float32."""
    kind = features.dtype
    return _in_blocks(lambda w: (w.astype(kind, copy=False) @ features).astype(np.float64), weights)


def _in_blocks(function: Callable[[NDArray[Any]], NDArray[Any]], rows: NDArray[Any], wide: int = 1) -> NDArray[Any]:
    """`function` of blocks of rows, joined; `wide`: numbers that it makes of a row."""
    size = max(1, _CHUNK // max(1, rows.shape[1], wide))
    return np.concatenate([function(rows[i : i + size]) for i in range(0, len(rows), size)])
