"""From stored runs to numbers: the scores of a cell's runs, and what each would have scored on other test items.

A `Sample` is all that the estimates in this package need. It comes from the runs of one cell, or from the differences
of two cells whose runs are matched draw by draw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from peftbench.errors import UsageError
from peftbench.records.predictions import read_columns
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.statistics.scorers import Items, Resamples, Scorer, scorer
from peftbench.tasks.problems import kind
from peftbench.tasks.problems.base import Sourced

Floats = NDArray[np.floating]
RESAMPLES = 1000
"""Resamples of the test items behind an interval; their noise in a standard error is 2 %."""
SEED = 20240611
"""Of all resampling: the same records give the same intervals, on any machine."""
_AGREES = 1e-6
"""Percent points by which a score computed here may differ from the recorded one."""


@dataclass(frozen=True)
class Run:
    """One run of a cell.

    Attributes:
        draw: names the drawn rows (their SHA-256), so that two runs on the same rows are known as such.
        data_seed: of the draw.
        seed: the training seed.
        score: the metric on test, in percent.
        scorer: gives the score on other choices of items; None if only the score is known.
    """

    run_id: str
    draw: Hashable
    data_seed: int
    seed: int
    score: float
    scorer: Scorer | None = None


@dataclass(frozen=True)
class Cell:
    """The runs of one cell of a table: same method, model, task, protocol and metric; other draws and training seeds.

    Attributes:
        runs: one for each (draw, seed); ordered by draw, then seed.
        metric: its name.
        items_sha: names the test items and their right answers; "" if the items are not known.
        n_items: units that are resampled (items, or groups of items that depend on each other); 0 if not known.
    """

    runs: tuple[Run, ...]
    metric: str
    items_sha: str = ""
    n_items: int = 0

    @cached_property
    def sample(self) -> Sample:
        """Scores of the runs, with their scores on resampled items where the items are known."""
        scores = np.array([r.score for r in self.runs])
        resampled = None
        if self.n_items:
            choices = item_resamples(self.items_sha, self.n_items)
            resampled = np.stack([r.scorer.resampled(choices) for r in self.runs if r.scorer], axis=1)
        return Sample(scores, tuple(r.draw for r in self.runs), resampled, self.n_items)


@dataclass(frozen=True)
class Sample:
    """Scores, or differences of scores, in percent points.

    Attributes:
        scores: [runs].
        draws: of each run; runs of one draw differ in their training seed.
        resampled: [resamples, runs] the same scores on resampled test items, one choice of items for all runs; None if
            the items are not known.
        n_items: how many units are resampled.
    """

    scores: Floats
    draws: tuple[Hashable, ...]
    resampled: Floats | None = None
    n_items: int = 0

    @cached_property
    def weights(self) -> Floats:
        """[units of replication, runs]: the mean over its runs for each draw, or for each run if there is one draw."""
        names = list(dict.fromkeys(self.draws))
        if len(names) == 1:
            return np.eye(len(self.scores))
        member = np.array([[draw == name for draw in self.draws] for name in names], dtype=float)
        return member / member.sum(axis=1, keepdims=True)

    @property
    def unit(self) -> str:
        """What varies between the replications: "draws", or "seeds" where all runs have the same rows."""
        return "draws" if len(set(self.draws)) > 1 else "seeds"

    @property
    def replications(self) -> Floats:
        """Mean score of each draw (of each run, if there is one draw)."""
        return self.weights @ self.scores

    @property
    def resampled_means(self) -> Floats | None:
        """[resamples]: the mean over the replications on resampled items."""
        return None if self.resampled is None else self.resampled @ self.weights.mean(axis=0)


def load_cell(store: Store, records: Sequence[Record], metric: str | None = None) -> Cell:
    """The cell that these finished runs make up, with their stored predictions.

    A run that repeats the rows and the seed of another (as data seeds do at shots=full) is counted once.

    Args:
        metric: default: the runs' own main metric.

    Raises:
        UsageError: there is no finished run, a predictions file is missing or changed, the runs do not share their test
            items, or the metric is not one of the task's.
    """
    done = sorted((r for r in records if r.status == "done"), key=lambda r: (r.data_seed, r.seed, r.run_id))
    if not done:
        raise UsageError("None of the runs is finished, so there is nothing to compute.")
    metric = metric or done[0].metric
    known = kind(done[0].data.get("problem") or "classification")
    if not known.by_item or (metric not in known.metrics and all(metric in r.scores for r in done)):
        return cell_of_scores(done, metric)  # of drawn answers, of a part of a mixture
    unique = {(_draw_name(r), r.seed): r for r in reversed(done)}
    kept = list(reversed(unique.values()))
    columns = [_test_columns(store, r) for r in kept]
    first = columns[0]
    for record, other in zip(kept, columns, strict=True):
        if (other.ids, other.targets, other.sources) != (first.ids, first.targets, first.sources):
            raise UsageError(f"Runs {kept[0].run_id} and {record.run_id} were tested on different items.")
    items = _items(done[0], first)
    runs = []
    for record, column in zip(kept, columns, strict=True):
        scored = scorer(metric, items, column.predictions)
        _check(record, metric, scored.score())
        runs.append(Run(record.run_id, _draw_name(record), record.data_seed, record.seed, scored.score(), scored))
    return Cell(tuple(runs), metric, _sha([first.ids, first.targets]), int(items.units().max()) + 1)


def cell_of_scores(records: Sequence[Record], metric: str | None = None) -> Cell:
    """The cell from the recorded scores alone, without predictions: its interval leaves the test items out.

    Raises:
        UsageError: there is no finished run with this metric.
    """
    done = sorted((r for r in records if r.status == "done"), key=lambda r: (r.data_seed, r.seed, r.run_id))
    metric = metric or (done[0].metric if done else "")
    unique = {(_draw_name(r), r.seed): r for r in reversed(done) if r.scores.get(metric) is not None}
    if not unique:
        raise UsageError(f"No finished run has a score of metric `{metric}`.")
    kept = list(reversed(unique.values()))
    runs = [Run(r.run_id, _draw_name(r), r.data_seed, r.seed, r.scores[metric]) for r in kept]
    return Cell(tuple(runs), metric)


def match(a: Cell, b: Cell) -> list[tuple[Run, Run]]:
    """Pairs of runs: within each common draw, the k-th training seed of A with the k-th of B.

    Cells without a common draw (5 shots against 10) are matched by data seed: which pairs there are is then fixed
    before any score is known, and where draws are nested in k a pair shares rows. Two single runs are a pair anyway.
    """
    if len(a.runs) == len(b.runs) == 1:
        return [(a.runs[0], b.runs[0])]
    return _match(a, b, lambda run: run.draw) or _match(a, b, lambda run: run.data_seed)


def _match(a: Cell, b: Cell, name: Callable[[Run], Hashable]) -> list[tuple[Run, Run]]:
    waiting: dict[Hashable, list[Run]] = {}
    for run in sorted(b.runs, key=lambda r: r.seed):
        waiting.setdefault(name(run), []).append(run)
    pairs = {
        run.run_id: (run, waiting[name(run)].pop(0))
        for run in sorted(a.runs, key=lambda r: r.seed)
        if waiting.get(name(run))
    }
    return [pairs[run.run_id] for run in a.runs if run.run_id in pairs]


def differences(a: Cell, b: Cell) -> Sample | None:
    """A minus B of matched runs; None if no run of A has a match in B. Both must be of the same metric and items."""
    check_comparable(a, b)
    pairs = match(a, b)
    if not pairs:
        return None
    mine = [a.runs.index(p[0]) for p in pairs]
    others = [b.runs.index(p[1]) for p in pairs]
    x, y = a.sample, b.sample
    resampled = None
    if x.resampled is not None and y.resampled is not None:
        resampled = x.resampled[:, mine] - y.resampled[:, others]
    draws = tuple(x.draws[i] for i in mine)
    return Sample(x.scores[mine] - y.scores[others], draws, resampled, min(x.n_items, y.n_items))


def comparable(a: Cell, b: Cell) -> bool:
    """Whether both cells have the same metric and, where known, the same test items."""
    return a.metric == b.metric and (not a.items_sha or not b.items_sha or a.items_sha == b.items_sha)


def check_comparable(a: Cell, b: Cell) -> None:
    """Raises ValueError unless the cells are comparable."""
    if not comparable(a, b):
        what = f"{a.metric} and {b.metric}" if a.metric != b.metric else "cells tested on different items"
        raise ValueError(f"{what} cannot be compared")


@lru_cache(maxsize=8)
def item_resamples(items_sha: str, n_items: int, resamples: int = RESAMPLES, seed: int = SEED) -> Resamples:
    """Choices of items with replacement.

    The same test set always gets the same choices, so scores on it may be subtracted; different test sets get
    independent ones.
    """
    return Resamples(_generator(items_sha, seed).integers(0, n_items, size=(resamples, n_items)))


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(_sha(name)[:16], 16)])


def _draw_name(record: Record) -> Hashable:
    return record.draw.get("sha256") or record.data_seed


class _Columns(NamedTuple):
    """The test set proper, in the order of ids; `positions` is where each row stands in the file."""

    ids: list[str]
    targets: list[Any]
    groups: list[str | None]
    predictions: list[Any]
    sources: list[str | None]
    positions: list[int]


def _test_columns(store: Store, record: Record) -> _Columns:
    """The test set proper.

    Further test sets stand behind it in the file; their items belong to metrics of their own.
    """
    named = record.predictions.get("file")
    if not named:
        raise UsageError(f"Run {record.run_id} has no stored predictions. Repeat it with `rerun=true`.")
    columns = read_columns(store.folder(record.run_id) / named, record.predictions.get("sha256"))
    count = (record.draw.get("rows") or {}).get("test", len(columns.ids))
    order = sorted(range(min(count, len(columns.ids))), key=columns.ids.__getitem__)

    def picked(column: list[Any]) -> list[Any]:
        return [column[i] for i in order]

    ids, targets, groups = picked(columns.ids), picked(columns.targets), picked(columns.groups)
    return _Columns(ids, targets, groups, picked(columns.predictions), picked(columns.sources), order)


def _items(record: Record, columns: _Columns) -> Items:
    targets, groups = columns.targets, columns.groups
    problem = record.data.get("problem") or _problem(targets)
    labels: Sequence[str] = record.data.get("labels") or ()
    if problem == "classification" and not labels:
        labels = sorted(set(targets))  # a record of before labels were written down; enough for all but `f1_binary`
    if kind(problem).sourced:
        sources = [source for source in columns.sources if source is not None]
        if len(sources) < len(targets):
            raise UsageError(
                f"Run {record.run_id}: its texts are not with its predictions. Repeat it with `rerun=true`."
            )
        targets = [Sourced(*row) for row in zip(sources, targets, columns.positions, strict=True)]
    span = record.data.get("score_range")
    return Items(
        tuple(targets),
        tuple(labels),
        problem,
        (float(span[0]), float(span[1])) if span else None,
        tuple(groups) if any(g is not None for g in groups) else None,
    )


def _problem(targets: Sequence[Any]) -> str:
    by_type: dict[type, str] = {str: "classification", list: "tuples"}
    return by_type.get(type(targets[0]), "regression")


def _check(record: Record, metric: str, score: float) -> None:
    recorded = record.scores.get(metric)
    if recorded is not None and abs(recorded - score) > _AGREES:
        raise UsageError(
            f"Run {record.run_id}: its predictions give {metric} {score:.4f}, its record says {recorded:.4f}. "
            "Repeat the run with `rerun=true`."
        )


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
