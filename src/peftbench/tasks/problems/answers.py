"""`answers`: several short answers to a question, the likeliest first (ProtoQA: Boratko et al., EMNLP 2020).

A target is the clusters of what people answered, `((count, (answer, ...)), ...)`, the largest first: the answers of one
cluster mean the same. A prediction is a ranked tuple of answers. Scores are those of the data's evaluator: a question's
is the best assignment of the answers that count to clusters, one to one, in people, as a share of what the clusters
themselves could reach under the same limit.

- `max_answer_K`: the first K answers count.
- `max_incorrect_K`: those until the K-th that is in no cluster. Another answer of a cluster that is taken already is
  not wrong, and adds nothing.

Of answers that should differ (several replies to one conversation):

- `distinct_N`: different N-grams as a share of all, over all answers of all rows (Li et al., NAACL 2016).
- `distinct_answers`: different answers of a row, as a share of those that it was given.
- `f1_closest`: word F1 of an answer with the nearest one of the target, the mean over answers. Ours: answers that share
  nothing with any known one are various, too.

An answer is in a cluster if it is one of its answers, in lower case and by the first 50 characters; under the names
that end in `_wordnet` if it means the same as one of them (`peftbench.tasks.wordnet`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.tasks.problems.base import Metric, Problem, SumMetric, UniqueMetric, ratio

if TYPE_CHECKING:
    from peftbench.tasks.base import TaskData

Match = Callable[[str, Sequence[str]], bool]
"""(answer, answers of a cluster) -> whether it is one of them."""

LONGEST = 50
"""Characters of an answer that are compared."""
ANSWERS, INCORRECT = (1, 3, 5, 10), (1, 3, 5)
_NUMBER = re.compile(r"(?:^|(?<=\s))(\d+)\s?[.)](?=\s|$)")
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")
_SENTENCE = re.compile(r"[.!?]\s+(?=[A-Z])")


def plain(answer: str) -> str:
    """As it is compared."""
    return answer.lower()[:LONGEST].strip()


def exact(answer: str, cluster: Sequence[str]) -> bool:
    """Whether it is, letter by letter, one of the cluster's answers."""
    return answer in {plain(other) for other in cluster}


def by_wordnet(answer: str, cluster: Sequence[str]) -> bool:
    """Whether it means the same as one of the cluster's answers."""
    from peftbench.tasks.wordnet import matcher

    same = matcher()
    return any(same(answer, plain(other)) for other in cluster)


def reached(target: Any, prediction: Any, match: Match, answers: int | None, incorrect: int | None) -> float:
    """What one question scores, from 0 to 1; an invalid prediction has no answers.

    Args:
        answers: how many count; None for all.
        incorrect: after how many wrong ones no more count; None for no such limit.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    counts = [count for count, _ in target]
    rows, wrong = [], 0
    for answer in list(prediction or ())[:answers]:
        rows.append([match(plain(answer), cluster) for _, cluster in target])
        wrong += not any(rows[-1])
        if wrong == incorrect:
            break
    if not rows:
        return 0.0
    people = np.array(rows) * np.array(counts)
    return float(people[linear_sum_assignment(people, maximize=True)].sum() / sum(sorted(counts)[::-1][:answers]))


def _metric(match: Match, answers: int | None = None, incorrect: int | None = None) -> SumMetric:
    needs = _need_wordnet if match is by_wordnet else None
    return SumMetric(lambda t, p: (reached(t, p, match, answers, incorrect), 1), ratio, needs)


def _need_wordnet() -> None:
    from peftbench.tasks.wordnet import matcher

    matcher()


def _metrics(match: Match, ending: str = "") -> dict[str, SumMetric]:
    made = {f"max_answer_{k}{ending}": _metric(match, answers=k) for k in ANSWERS}
    return made | {f"max_incorrect_{k}{ending}": _metric(match, incorrect=k) for k in INCORRECT}


def grams(prediction: Any, n: int) -> list[tuple[str, ...]]:
    """The N-grams of each answer, in lower case. Words are runs of letters and digits, with apostrophes inside (ours:
    the authors of Possibility Exploration split as NLTK does); none touches punctuation, and an answer of one word has
    none."""
    found = []
    for answer in prediction or ():
        tokens = _TOKEN.findall(answer.lower())
        runs = zip(*(tokens[start:] for start in range(n)), strict=False) if len(tokens) > 1 else ()
        found += [run for run in runs if all(token[0].isalnum() or token[0] == "_" for token in run)]
    return found


def _closest(target: Any, prediction: Any) -> tuple[float, int]:
    """F1 added up, and answers; an invalid prediction is one that shares nothing."""
    known = [Counter(_TOKEN.findall(answer.lower())) for _, answers in target for answer in answers]
    given = [Counter(_TOKEN.findall(answer.lower())) for answer in prediction or ()]
    return sum(max(_f1(words, other) for other in known) for words in given), max(len(given), 1)


def _f1(first: Counter[str], second: Counter[str]) -> float:
    both, either = sum((first & second).values()), sum(first.values()) + sum(second.values())
    return 2 * both / max(either, 1)


def _different(target: Any, prediction: Any) -> tuple[int, int]:
    return len({plain(answer) for answer in prediction or ()}), len(prediction or ())


def write(target: Any, data: TaskData, style: str) -> str:
    """`words`: the answers, one of each cluster, as a numbered list. `paper`: the first alone, as the language model of
    ProtoQA's authors writes them. Without the full stop at an answer's end."""
    answers = [answers[0].rstrip(". ") for _, answers in target]
    return answers[0] if style == "paper" else "\n".join(f"{n}. {answer}" for n, answer in enumerate(answers, 1))


def parse(text: str, data: TaskData, style: str) -> tuple[str, ...] | None:
    """The answers of the first list in a text that is numbered from 1, without breaks (`words`), or the first sentence
    of its first line (`paper`); None if there is none."""
    found = [_SENTENCE.split(text.strip().partition("\n")[0])[0]] if style == "paper" else list(_listed(text))
    return tuple(answer for part in found if (answer := part.strip().rstrip(". "))) or None


def _listed(text: str) -> list[str]:
    """What stands behind 1., 2., 3. ..., each to the end of its line at most."""
    marks: list[re.Match[str]] = []
    for mark in _NUMBER.finditer(text):
        if int(mark[1]) == len(marks) + 1:
            marks.append(mark)
    ends = [mark.start() for mark in marks[1:]] + [len(text)] * bool(marks)
    return [text[mark.end() : end].strip().partition("\n")[0] for mark, end in zip(marks, ends, strict=True)]


def pool(parsed: Sequence[Any]) -> tuple[str, ...] | None:
    """One ranking from several samples: an answer's points are the sum of 1 / its rank over the samples, so single
    answers are ranked by how often they were drawn. Equal points: the one drawn first. Answers that differ by case or
    by spaces around them are one (our reading of pooling by frequency; meanings are not compared)."""
    points: dict[str, float] = {}
    for sample in parsed:
        for rank, answer in enumerate(sample or (), 1):
            points[plain(answer)] = points.get(plain(answer), 0.0) + 1 / rank
    return tuple(sorted(points, key=lambda answer: -points[answer])) or None


def show(value: Any) -> str:
    """Answers with commas between; of clusters the first answer, with how many people gave one of it."""
    return ", ".join(one if isinstance(one, str) else f"{one[1][0]} ({one[0]})" for one in value) or "(none)"


_EXACT = _metrics(exact)
_DIVERSITY: dict[str, Metric] = {
    "f1_closest": SumMetric(_closest, ratio),
    "distinct_1": UniqueMetric(lambda prediction: grams(prediction, 1)),
    "distinct_2": UniqueMetric(lambda prediction: grams(prediction, 2)),
    "distinct_answers": SumMetric(_different, ratio),
}

PROBLEM = Problem(
    "answers",
    metrics={**_EXACT, **_metrics(by_wordnet, "_wordnet"), **_DIVERSITY},
    usual=tuple(_EXACT),
    mark="clusters",
    write=write,
    parse=parse,
    styles=("words", "paper"),
    room=96,
    pool=pool,
    show=show,
    modules=("scipy.optimize",),
)
