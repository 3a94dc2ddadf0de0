"""What a kind of targets declares of itself, so that nobody need ask for it by name: its metrics, how an answer is
written and read as text, what a few-shot draw counts, and how it is shown.

A module of this package is a kind if it has the constant `PROBLEM`; at its top it imports nothing heavy, not even
NumPy: the name of a run is made from the kind, too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from peftbench.tasks.base import Row, TaskData

    Sums = NDArray[np.floating]


@dataclass(frozen=True)
class Answers:
    """References and predictions in the form that the metrics of a kind take: class ids (-1 is an invalid prediction),
    scores, or whatever the targets are. `labels` (how many) and `groups` (of each row) belong to classes."""

    references: Sequence[Any]
    predictions: Sequence[Any]
    labels: int = 0
    groups: Sequence[Hashable | None] = ()


class Sourced(NamedTuple):
    """The references of a row, with what metrics of rewritten texts look at besides.

    Attributes:
        source: the row's text.
        references: the row's target.
        position: the row's place in the test set, from 0: GLEU draws a reference for each.
    """

    source: str
    references: Sequence[str]
    position: int


class Rewards(NamedTuple):
    """What an answer that names a label is worth in reinforcement, and one that names none, or several."""

    right: float
    wrong: float
    invalid: float


Metric = Callable[[Answers], float]
"""A fraction; 100 times as much is shown."""


@dataclass(frozen=True)
class SumMetric:
    """A metric that is a function of sums over the rows, as a micro F1 or a mean is. `peftbench.statistics` resamples
    rows by what each of them adds; a metric that is none has to be known there besides (`statistics.scorers`).

    Attributes:
        counts: (target, prediction) -> what the row adds to each sum. Lists may stand for tuples, as in JSON; an
            invalid prediction is None; of a kind that is `sourced`, the target is a `Sourced`.
        value: [..., sums] -> [...], a fraction.
        needs: raises UsageError where something that it takes (a package, a corpus) is not at hand; asked before any
            data is read.
    """

    counts: Callable[[Any, Any], Sequence[float]]
    value: Callable[[Sums], Sums]
    needs: Callable[[], None] | None = None

    def __call__(self, answers: Answers) -> float:
        import numpy as np

        rows = [self.counts(*pair) for pair in zip(answers.references, answers.predictions, strict=True)]
        return float(self.value(np.sum(np.array(rows, dtype=np.float64), axis=0)))


@dataclass(frozen=True)
class BatchMetric:
    """A metric of whole columns of numbers, computed anew for each resample.

    Attributes:
        value: (targets, predictions), both [samples, rows] -> [samples], a fraction.
    """

    value: Callable[[Sums, Sums], Sums]

    def __call__(self, answers: Answers) -> float:
        import numpy as np

        return float(self.value(np.array([answers.references], float), np.array([answers.predictions], float))[0])


@dataclass(frozen=True)
class GroupMetric:
    """The mean of a number that each group of rows has (a query with what is ranked for it); a row without a group is
    one by itself. Groups are resampled.

    Attributes:
        value: (targets, predictions), both [rows of the group] -> a fraction.
    """

    value: Callable[[Sums, Sums], float]

    def of_groups(self, answers: Answers) -> Sums:
        """[groups], in the order of their first rows."""
        import numpy as np

        places: dict[Hashable, list[int]] = {}
        for i, group in enumerate(answers.groups or [None] * len(answers.references)):
            places.setdefault(("row", i) if group is None else ("group", group), []).append(i)
        truth, guess = np.array(answers.references, float), np.array(answers.predictions, float)
        return np.array([self.value(truth[rows], guess[rows]) for rows in places.values()])

    def __call__(self, answers: Answers) -> float:
        return float(self.of_groups(answers).mean())


@dataclass(frozen=True)
class UniqueMetric:
    """How many of the things that all predictions hold are different, as a share of all; 0 where there are none. It
    falls as rows are added.

    Attributes:
        things: prediction, None if invalid -> what it holds.
    """

    things: Callable[[Any], Sequence[Hashable]]

    def __call__(self, answers: Answers) -> float:
        held = [thing for prediction in answers.predictions for thing in self.things(prediction)]
        return len(set(held)) / max(len(held), 1)


def ratio(sums: Sums) -> Sums:
    """The first sum as a share of the second; 0 where there is nothing to share."""
    import numpy as np

    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def as_they_are(data: TaskData, rows: Sequence[Row], predicted: Sequence[Any]) -> Answers:
    """Targets and predictions as rows and models have them."""
    return Answers([row.target for row in rows], predicted)


@dataclass(frozen=True)
class Problem:
    """A kind of targets.

    Attributes:
        name: as `TaskData.problem` has it; the name of the module.
        metrics: name -> metric, all that there are for the kind.
        usual: those of a task that names none, the main one first.
        always: given for every task of the kind, whatever its own metrics are.
        answers: (task, rows, predictions) -> what the metrics take.
        sourced: the metrics look at the row's text, too, which is then kept with the predictions (`Sourced`).
        strata: what the k of a few-shot draw is counted in: rows of each "label", of each "half" of the scores, of
            each "domain", or "rows" whatever their target.
        by_item: whether its metrics can be computed for other choices of the test items (`peftbench.statistics`).
        mark: the key that only subsets of this kind have in a task's YAML, by which it is told; "" for classification,
            which is everything else.
        labels_of: target -> the labels in it; a draw counts them, and so does `check-task`.
        write: (target, task, style) -> the text that a model should write for it, `style` being
            `method.formulation.answers`; None if the kind is not written.
        parse: (text, task, style) -> the target that it says, None if it says none: what does not parse is invalid, is
            counted and is kept as text. None if reading takes the tokenizer (labels: see `generate`).
        write_spans: (text of the row, target, task) -> the target by places in the text (`formulation=edit_spans`);
            None if the kind has no such form.
        read_spans: (text of the row, text, task) -> the target that it says, None if it says none, and how much of it
            was left out because it cannot be meant.
        is_right: (target, prediction) -> whether a reader should count the answer as right.
        styles: what `method.formulation.answers` may be, the usual one first.
        room: tokens that a written answer may take, where it is no label.
        reward: (target, prediction, task, table) -> what an answer is worth in reinforcement (the stage
            `reinforcement`), None as the prediction being an invalid one; None of the kind if it has no such number.
        pool: what several sampled answers to one row say together, of each what `parse` made of it (None: invalid);
            None of the kind if that is no question.
        by_label: (target, prediction) -> label -> (right, answered, true) of one row, for precision, recall and F1 by
            label in the report; None if that is no question, or told from single labels.
        show: target or prediction -> a few words for a reader.
        cell: prediction -> what stands in a table of answers; `show`, unless it says more.
        modules: what the metrics import when they are computed.
    """

    name: str
    metrics: Mapping[str, Metric]
    usual: tuple[str, ...]
    always: tuple[str, ...] = ()
    answers: Callable[[TaskData, Sequence[Row], Sequence[Any]], Answers] = as_they_are
    sourced: bool = False
    strata: Literal["label", "half", "domain", "rows"] = "rows"
    by_item: bool = True
    mark: str = ""
    labels_of: Callable[[Any], Iterable[str]] = lambda target: ()
    write: Callable[[Any, TaskData, str], str] | None = None
    parse: Callable[[str, TaskData, str], Any] | None = None
    write_spans: Callable[[str, Any, TaskData], str] | None = None
    read_spans: Callable[[str, str, TaskData], tuple[Any, int]] | None = None
    is_right: Callable[[Any, Any], bool] = lambda target, prediction: target == prediction
    styles: tuple[str, ...] = ("words",)
    room: int = 8
    reward: Callable[[Any, Any, TaskData, Rewards], float] | None = None
    pool: Callable[[Sequence[Any]], Any] | None = None
    by_label: Callable[[Any, Any], Mapping[str, tuple[int, int, int]]] | None = None
    show: Callable[[Any], str] = str
    cell: Callable[[Any], str] | None = None
    modules: tuple[str, ...] = ()
