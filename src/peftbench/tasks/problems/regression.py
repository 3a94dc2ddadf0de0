"""`regression`: a score a row."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import Answers, Problem, Rewards

if TYPE_CHECKING:
    from peftbench.tasks.base import Row, TaskData


def pearson(references: Sequence[float], predictions: Sequence[float]) -> float:
    """Pearson's r; 0 where it is undefined (a constant, fewer than two rows)."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, references, predictions)


def spearman(references: Sequence[float], predictions: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where it is undefined."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, references, predictions)


def _correlation(function: Callable, references: Sequence[float], predictions: Sequence[float]) -> float:
    if len(references) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of a constant and returns nan
        value = float(function(references, predictions).statistic)
    return value if math.isfinite(value) else 0.0


def worst(reference: float, low: float, high: float) -> float:
    """The end of the score range that is farther from the reference: what an invalid score counts as."""
    return low if reference - low > high - reference else high


def as_scores(data: TaskData, rows: Sequence[Row], predicted: Sequence[Any]) -> Answers:
    """Scores; an invalid one as `worst` says.

    Raises:
        TypeError: a prediction is neither a number nor None.
    """
    references = [float(row.target) for row in rows]  # type: ignore[arg-type]
    low, high = data.score_range or (min(references), max(references))
    predictions = []
    for reference, answer in zip(references, predicted, strict=True):
        if isinstance(answer, (str, tuple)):
            raise TypeError(f"{answer!r}: a predicted score is a number or None")
        valid = answer is not None and math.isfinite(answer)
        predictions.append(float(answer) if valid else worst(reference, low, high))
    return Answers(references, predictions)


def write(target: Any, data: TaskData, style: str) -> str:
    """`words`: one of 0.0, 0.2, 0.4 ..., as T5 writes STS-B's. `digits`: in steps of 0.1, as ATTEMPT and DePT do."""
    if style == "words":
        return f"{round(float(target) * 5) / 5:.1f}"
    import numpy as np

    return str(np.round(float(target), 1))  # which rounds otherwise than Python: 0.05 is 0.0


def parse(text: str, data: TaskData, style: str) -> float | None:
    """A number inside the score range, else None."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)", re.sub(r"\s*\.\s*", ".", text.strip()))  # some tokenizers write 3 . 4
    low, high = data.score_range or (float("-inf"), float("inf"))
    return float(match[1]) if match and low <= float(match[1]) <= high else None


def reward(target: Any, prediction: Any, data: TaskData, table: Rewards) -> float:
    """Half the score range less the distance, and less all of the range's half for no score: of STS-B's 0 to 5, as
    RL4GLUE has it, 2.5 - |x - y| and -2.5. The table is about labels."""
    assert data.score_range is not None
    half = (data.score_range[1] - data.score_range[0]) / 2
    return -half if prediction is None else half - abs(float(prediction) - float(target))


PROBLEM = Problem(
    "regression",
    metrics={
        "pearson": lambda a: pearson(a.references, a.predictions),
        "spearman": lambda a: spearman(a.references, a.predictions),
    },
    usual=("pearson", "spearman"),
    answers=as_scores,
    strata="half",
    mark="score_range",
    write=write,
    parse=parse,
    styles=("words", "digits"),
    reward=reward,
    modules=("scipy.stats",),
)
