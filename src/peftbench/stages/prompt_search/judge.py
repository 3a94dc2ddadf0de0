"""How good a prompt is: answers to rows of train and dev, paired comparisons on the same rows, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from peftbench.formulations.prompted import PromptedConfig
from peftbench.formulations.prompted.formulation import Prompted
from peftbench.formulations.prompts import PromptSet
from peftbench.learner import Learner
from peftbench.stages.base import Context
from peftbench.stages.learning import LearnerPredictor
from peftbench.stages.prompt_search.candidates import Candidate
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.metrics import score


class BudgetSpent(Exception):
    """The next question would cost more calls or tokens than the search may spend."""


@dataclass
class Budget:
    """What a search may spend, and has spent. A call is a row answered by the task's model, or a text written.

    Attributes:
        calls, tokens: the limits; None: without end. Tokens are those that are read and those that are written.
    """

    calls: int | None = None
    tokens: int | None = None
    answered: int = 0
    written: int = 0
    used: int = 0

    @property
    def spent(self) -> int:
        """Calls so far."""
        return self.answered + self.written

    def allow(self, calls: int, tokens: int = 0) -> None:
        """Raises BudgetSpent if that much more is too much."""
        too_many = self.calls is not None and self.spent + calls > self.calls
        if too_many or (self.tokens is not None and self.used + tokens > self.tokens):
            raise BudgetSpent


class Journal:
    """What was answered so far, in a file: a search that was cut off asks none of it again.

    The file is a JSON line an entry; one that was being written when the process ended counts as none.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, {}  # type: ignore[var-annotated]
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, value = json.loads(line)
                except ValueError:
                    continue
                self.known[key] = value
        path.parent.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Any:
        """What was put there; None if nothing."""
        return self.known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value."""
        self.known[key] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" if self.path.stat().st_size else "")  # behind a line that was cut off
            file.write(json.dumps([key, value]))


@dataclass(frozen=True)
class Comparison:
    """Two prompts on the same rows.

    Attributes:
        gain: main metric of the new one less that of the old one, a fraction.
        wins, losses: rows that only the new one, or only the old one, has right.
        p: two-sided exact sign test of the two numbers; 1 where there are none.
    """

    gain: float
    wins: int
    losses: int
    p: float


def compare(data: TaskData, rows: Sequence[Row], old: Sequence[Any], new: Sequence[Any]) -> Comparison:
    """Answers of two prompts to the same labelled rows."""
    from scipy.stats import binomtest

    right = [[data.kind.is_right(row.target, a) for row, a in zip(rows, own, strict=True)] for own in (old, new)]
    wins = sum(b and not a for a, b in zip(*right, strict=True))
    losses = sum(a and not b for a, b in zip(*right, strict=True))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Comparison(value_of(data, rows, new) - value_of(data, rows, old), wins, losses, p)


def value_of(data: TaskData, rows: Sequence[Row], answers: Sequence[Any]) -> float:
    """The task's main metric, a fraction."""
    return score(data, rows, list(answers))[data.main_metric] / 100


class Judge:
    """Has one model answer rows by many prompts. A prompt's answer to a row is asked for once.

    Args:
        predictor: the model; its own prompt plays no part.
        base: the set whose form and words prompts take.
    """

    def __init__(self, context: Context, predictor: LearnerPredictor, base: PromptSet, budget: Budget) -> None:
        self.context, self.learner, self.base, self.budget = context, predictor.learner, base, budget
        self.data = context.data
        self.journal = Journal(context.stage_folder() / "answers.jsonl")
        self._answers: dict[tuple[str, str], Any] = {}

    def posed(self, candidate: Candidate) -> LearnerPredictor:
        """The model, asked by this prompt."""
        own = {row.id: row for row in self.context.draw.train}
        shown = [own[id_] for id_ in candidate.examples]
        return LearnerPredictor(
            with_prompt(self.learner, candidate.written(self.base), shown, self.context.cfg.seed), self.context
        )

    def size(self, candidate: Candidate) -> int:
        """Tokens of the instruction."""
        formulation = self.learner.formulation
        assert isinstance(formulation, Prompted)
        return len(formulation.ids_of(candidate.instruction))

    def answers(self, candidate: Candidate, rows: Sequence[Row]) -> list[Any]:
        """The answer to each row, None if it is invalid.

        Raises:
            BudgetSpent: not all of them can be paid for; none was asked then.
        """
        left = list({row.id: row for row in rows if (candidate.key, row.id) not in self._answers}.values())
        if left:
            self._ask(candidate, left)
        return [self._answers[candidate.key, row.id] for row in rows]

    def _ask(self, candidate: Candidate, rows: Sequence[Row]) -> None:
        self.context.attempt.check()
        self.budget.allow(len(rows))
        name = f"{candidate.key} {' '.join(row.id for row in rows)}"
        if (known := self.journal.get(name)) is None:
            known = self._predicted(candidate, rows)
            self.journal.put(name, known)
        tokens, answers = known
        self.budget.answered += len(rows)
        self.budget.used += tokens
        for row, answer in zip(rows, answers, strict=True):
            self._answers[candidate.key, row.id] = _frozen(answer)

    def _predicted(self, candidate: Candidate, rows: Sequence[Row]) -> tuple[int, list[Any]]:
        predictor = self.posed(candidate)
        asked = [replace(row, target=None) for row in rows]
        tokens = sum(item.length for item in predictor.encode(asked))
        self.budget.allow(len(rows), tokens)
        with self.context.clock("train"), self.context.meter.phase("train"):
            found = predictor.predict(asked)
        formulation = predictor.learner.formulation
        assert isinstance(formulation, Prompted)
        tokens += sum(len(formulation.ids_of(one.answer)) for one in found if one.answer)
        return tokens, [one.label for one in found]

    def compare(self, old: Candidate, new: Candidate, rows: Sequence[Row]) -> Comparison:
        """The two on the same rows. Raises BudgetSpent."""
        return compare(self.data, rows, self.answers(old, rows), self.answers(new, rows))

    def value(self, candidate: Candidate, rows: Sequence[Row]) -> float:
        """The main metric on labelled rows, a fraction. Raises BudgetSpent."""
        return value_of(self.data, rows, self.answers(candidate, rows))


def with_prompt(learner: Learner, prompts: PromptSet, shown: Sequence[Row], seed: int) -> Learner:
    """The same model asked by another prompt, with these rows in front, in an order that follows from the seed."""
    old = learner.formulation
    assert isinstance(old, Prompted)
    changes: dict[str, Any] = {"prompts": prompts.written_out(), "prompts_sha256": None, "prompt_number": 0}
    changes |= {"k": "full" if shown else 0, "select": "random"}
    options: PromptedConfig = replace(old.options, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of which a formulation takes the order of what it shows
        made = learner.with_formulation(type(old)(learner.backbone, old.task, old.max_length, options))
    made.formulation.shots = shown
    if learner.config is not None:
        method = learner.config.method
        made.config = replace(
            learner.config, method=replace(method, formulation=replace(method.formulation, **changes))
        )
    return made


def _frozen(answer: Any) -> Any:
    """A target as tasks have it: JSON makes lists of tuples."""
    return tuple(map(_frozen, answer)) if isinstance(answer, list) else answer
