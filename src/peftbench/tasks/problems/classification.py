"""`classification`: one label a row, by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import Answers, Problem, Rewards

if TYPE_CHECKING:
    from peftbench.tasks.base import Row, TaskData
    from peftbench.tasks.problems.base import Sums

INVALID = -1
"""The class id of an invalid prediction."""


def accuracy(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Share of rows that are right."""
    return sum(r == p for r, p in zip(references, predictions, strict=True)) / len(references)


def f1_macro(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Unweighted mean of the F1 of each class that occurs among references or predictions.

    A class that is only predicted counts with F1 = 0; an invalid prediction is a miss of its row's class.
    """
    return float(_f1_by_class(references, predictions)[0].mean())


def f1_weighted(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Mean of the F1 of each class, weighted by its number of references; invalid predictions as in `f1_macro`."""
    f1, true = _f1_by_class(references, predictions)
    return float((f1 * true).sum() / true.sum())


def f1_binary(references: Sequence[int], predictions: Sequence[int], positive: int = 1) -> float:
    """F1 of one class of two. An invalid prediction counts as the wrong one of the two ("F1 with invalid" of T5)."""
    truth = [r == positive for r in references]
    guess = [not t if p == INVALID else p == positive for t, p in zip(truth, predictions, strict=True)]
    return float(_f1_by_class(truth, guess)[0][-1]) if any(truth) or any(guess) else 0.0


def mcc(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Matthews correlation (Gorodkin's R_K beyond two classes); invalid predictions are a class that is never right."""
    _, right, answered, true = _counts(references, predictions)
    n = true.sum()
    both = right.sum() * n - answered @ true
    spread = (n**2 - answered @ answered) * (n**2 - true @ true)
    return float(both / math.sqrt(spread)) if spread else 0.0  # 0 where there is one class only


def exact_match_group(
    references: Sequence[int], predictions: Sequence[int], groups: Sequence[Hashable | None]
) -> float:
    """Share of groups (MultiRC: questions) whose rows are all right; a row without a group is one by itself."""
    right: dict[Hashable, bool] = {}
    for i, (r, p, group) in enumerate(zip(references, predictions, groups, strict=True)):
        key = ("row", i) if group is None else ("group", group)
        right[key] = right.get(key, True) and r == p
    return sum(right.values()) / len(right)


# The numbers are those of scikit-learn's `f1_score` and `matthews_corrcoef` to the last bit. Counted here, for its
# import takes longer than a classical model on a few rows.


def _counts(references: Sequence[int], predictions: Sequence[int]) -> tuple[Sums, Sums, Sums, Sums]:
    """The ids that occur, in order, and of each how many rows are right, answered with it, and truly of it."""
    import numpy as np

    ids, places = np.unique([references, predictions], return_inverse=True)
    truth, guess = places.reshape(2, -1)
    right, answered, true = (
        np.bincount(p, minlength=len(ids)).astype(float) for p in (truth[truth == guess], guess, truth)
    )
    return ids, right, answered, true


def _f1_by_class(references: Sequence[int], predictions: Sequence[int]) -> tuple[Sums, Sums]:
    """F1 and number of references of each class that occurs, in order."""
    ids, right, answered, true = _counts(references, predictions)
    classes = ids != INVALID
    return (2 * right / (answered + true))[classes], true[classes]


def as_ids(data: TaskData, rows: Sequence[Row], predicted: Sequence[Any]) -> Answers:
    """Label names as ids; what is none of them is invalid.

    Raises:
        TypeError: a prediction is neither text nor None.
    """
    ids = {label: i for i, label in enumerate(data.labels)}
    for answer in predicted:
        if answer is not None and not isinstance(answer, str):
            raise TypeError(f"{answer!r}: a predicted class is a label name or None")
    predictions = [INVALID if p is None else ids.get(str(p), INVALID) for p in predicted]
    return Answers([ids[str(row.target)] for row in rows], predictions, len(ids), [row.group for row in rows])


def write(target: Any, data: TaskData, style: str) -> str:
    """`words`: the label's word. `digits`: its place in the task's list, which is its number in the hub's files, as
    ATTEMPT and DePT write labels."""
    if style == "digits":
        return str(data.labels.index(str(target)))
    return data.label_words.get(str(target), str(target))


def reward(target: Any, prediction: Any, data: TaskData, table: Rewards) -> float:
    """By the table."""
    return table.invalid if prediction is None else table.right if prediction == target else table.wrong


def pool(parsed: Sequence[Any]) -> str | None:
    """The label of most samples (self-consistency; Wang et al., ICLR 2023), of several the one that was drawn first.
    Invalid samples have no vote."""
    votes = Counter(label for label in parsed if label is not None)
    return max(votes, key=votes.__getitem__, default=None)


PROBLEM = Problem(
    "classification",
    metrics={
        "accuracy": lambda a: accuracy(a.references, a.predictions),
        "f1_macro": lambda a: f1_macro(a.references, a.predictions),
        "f1_weighted": lambda a: f1_weighted(a.references, a.predictions),
        "f1_binary": lambda a: f1_binary(a.references, a.predictions, positive=a.labels - 1),
        "mcc": lambda a: mcc(a.references, a.predictions),
        "exact_match_group": lambda a: exact_match_group(a.references, a.predictions, a.groups),
    },
    usual=("f1_macro", "accuracy"),
    always=("f1_macro", "f1_weighted", "accuracy"),  # the leaderboard has these columns
    answers=as_ids,
    strata="label",
    labels_of=lambda target: (str(target),),
    write=write,
    styles=("words", "digits"),
    reward=reward,
    pool=pool,
)
