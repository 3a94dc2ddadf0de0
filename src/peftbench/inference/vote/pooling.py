"""How the answers of several paths become one, whatever the order of the paths. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from peftbench.tasks.problems.answers import plain

Same = Callable[[str, str], bool]
"""Whether two answers mean the same."""


class Pooled(NamedTuple):
    """One answer.

    Attributes:
        answer: None if no path has one.
        share: of the paths, those that say so; of rankings, those that have the first answer's cluster first.
        tied: whether another answer has as many votes or points.
    """

    answer: Any
    share: float
    tied: bool


def vote(labels: Sequence[str | None], order: Sequence[str], shares: Sequence[dict[str, float]] = ()) -> Pooled:
    """The label of most paths; invalid ones have no vote.

    Args:
        order: all labels. Of labels with the same votes that one counts which has the larger share on average, where
            paths have `shares`, then the one that stands first here.
    """
    votes = Counter(label for label in labels if label is not None)
    if not votes:
        return Pooled(None, 0.0, False)
    most = max(votes.values())
    best = [label for label in order if votes[label] == most]
    mean = {label: sum(own.get(label, 0.0) for own in shares) for label in best}
    return Pooled(max(best, key=mean.__getitem__), most / len(labels), len(best) > 1)


def rank(rankings: Sequence[Sequence[str] | None], same: Same = lambda one, other: False) -> Pooled:
    """One ranking of several: an answer's points are the sum of 1 / its rank. Answers that mean the same are one, which
    is called as the one of them with the most points; equal points are put in the order of the alphabet.

    Clusters are found greedily: answers by falling points, each to the first cluster whose name means the same.
    """
    points: Counter[str] = Counter()
    for ranking in rankings:
        for place, answer in enumerate(ranking or (), 1):
            points[plain(answer)] += 1 / place  # type: ignore[assignment]
    clusters: dict[str, float] = {}
    of: dict[str, str] = {}
    for answer in sorted(points, key=lambda answer: (-points[answer], answer)):
        name = next((known for known in clusters if same(known, answer)), answer)
        clusters[name] = clusters.get(name, 0.0) + points[answer]
        of[answer] = name
    ranked = sorted(clusters, key=lambda name: (-clusters[name], name))
    if not ranked:
        return Pooled(None, 0.0, False)
    first = [of[plain(ranking[0])] for ranking in rankings if ranking]
    tied = len(ranked) > 1 and abs(clusters[ranked[0]] - clusters[ranked[1]]) < 1e-9
    return Pooled(tuple(ranked), first.count(ranked[0]) / len(rankings), tied)
