"""`classification`: one label a row, by name."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import Answers, Problem, Rewards

if TYPE_CHECKING:
    from peftbench.tasks.base import Row, TaskData

INVALID = -1
"""The class id of an invalid prediction."""


def accuracy(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Share of rows that are right."""
    return sum(r == p for r, p in zip(references, predictions, strict=True)) / len(references)


def f1_macro(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Unweighted mean of the F1 of each class that occurs among references or predictions.

    A class that is only predicted counts with F1 = 0; an invalid prediction is a miss of its row's class.
    """
    return _f1(references, predictions, "macro")


def f1_weighted(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Mean of the F1 of each class, weighted by its number of references; invalid predictions as in `f1_macro`."""
    return _f1(references, predictions, "weighted")


def f1_binary(references: Sequence[int], predictions: Sequence[int], positive: int = 1) -> float:
    """F1 of one class of two. An invalid prediction counts as the wrong one of the two ("F1 with invalid" of T5)."""
    from sklearn.metrics import f1_score

    truth = [r == positive for r in references]
    guess = [not t if p == INVALID else p == positive for t, p in zip(truth, predictions, strict=True)]
    return float(f1_score(truth, guess, zero_division=0.0))


def mcc(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Matthews correlation (Gorodkin's R_K beyond two classes); invalid predictions are a class that is never right."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where there is one class only; the result is 0
        return float(matthews_corrcoef(list(references), list(predictions)))


def exact_match_group(
    references: Sequence[int], predictions: Sequence[int], groups: Sequence[Hashable | None]
) -> float:
    """Share of groups (MultiRC: questions) whose rows are all right; a row without a group is one by itself."""
    right: dict[Hashable, bool] = {}
    for i, (r, p, group) in enumerate(zip(references, predictions, groups, strict=True)):
        key = ("row", i) if group is None else ("group", group)
        right[key] = right.get(key, True) and r == p
    return sum(right.values()) / len(right)


def _f1(references: Sequence[int], predictions: Sequence[int], average: str) -> float:
    from sklearn.metrics import f1_score

    present = sorted({*references, *predictions} - {INVALID})
    return float(f1_score(list(references), list(predictions), labels=present, average=average, zero_division=0.0))


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
