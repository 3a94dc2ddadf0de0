"""What all ways to search for a prompt share."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.formulations.prompts import PromptSet, prompt_set
from peftbench.learner import Learner
from peftbench.models.remote import Completion
from peftbench.stages.base import Context, StageReport
from peftbench.stages.learning import LearnerPredictor
from peftbench.stages.prompt_search import OWN, PromptSearchOptions, is_writing
from peftbench.stages.prompt_search.candidates import Candidate, Trial, write_trials
from peftbench.stages.prompt_search.judge import Budget, Comparison, Journal, Judge
from peftbench.stages.prompt_search.writers import Author, LocalAuthor, author
from peftbench.tasks.base import Row

CANDIDATES = "candidates.jsonl"
"""File in the run's folder: all that were tried."""


class Search:
    """Rows, budget, judge, writer, and the list of what was tried.

    Attributes:
        dev: the rows that prompts are chosen by, at most `validation` of the draw's dev rows.
        trials: all that were tried, the first one first.
    """

    def __init__(self, context: Context, predictor: LearnerPredictor) -> None:
        self.context, self.cfg = context, options(context)
        formulation = context.cfg.method.formulation
        self.base: PromptSet = prompt_set(formulation.prompts)  # type: ignore[attr-defined]
        self.form: int = formulation.prompt_number  # type: ignore[attr-defined]
        self.budget = Budget(self.cfg.calls, self.cfg.tokens)
        self.judge = Judge(context, predictor, self.base, self.budget)
        self.train: Sequence[Row] = context.draw.train
        self.dev: Sequence[Row] = context.draw.dev[: self.cfg.validation]
        self.trials: list[Trial] = []
        self.candidates: list[Candidate] = []
        self.notes: list[str] = []
        self._own = local_author(predictor.learner, self.cfg, context.cfg.seed)
        self._author: Author | None = None
        self._journal = Journal(context.stage_folder() / "written.jsonl")

    def first_examples(self) -> tuple[str, ...]:
        """The first rows of the draw, classes in turn."""
        classes: dict[str, list[str]] = {}
        for row in self.train:
            classes.setdefault(str(row.target), []).append(row.id)
        turns = [own[turn] for turn in range(len(self.train)) for own in classes.values() if turn < len(own)]
        return tuple(turns[: self.cfg.examples])

    def write(self, question: str) -> str:
        """What the writer answers. Raises BudgetSpent."""
        self.context.attempt.check()
        self.budget.allow(1)
        number = self.budget.written
        key = f"{number} {question}"
        if (known := self._journal.get(key)) is None:
            with self.context.clock("train"), self.context.meter.phase("train"):
                if self._author is None:
                    self._author = author(self.cfg, self._own, self.context.cfg.seed)
                made: Completion = self._author(question, number)
            known = [made.text, made.prompt_tokens + made.completion_tokens]
            self._journal.put(key, known)
        self.budget.written += 1
        self.budget.used += known[1]
        return str(known[0])

    def note(self, candidate: Candidate, **facts: object) -> Trial:
        """Add a prompt to those that were tried."""
        made = Trial(
            len(self.trials),
            calls=self.budget.spent,
            tokens=self.budget.used,
            sections=dict(candidate.sections),
            examples=list(candidate.examples),
            form=candidate.form,
            **facts,  # type: ignore[arg-type]
        )
        self.trials.append(made)
        self.candidates.append(candidate)
        if len(self.trials) % 10 == 0:
            self.keep()
        return made

    def on_dev(self, candidate: Candidate) -> float:
        """Score on dev, in percent. Raises BudgetSpent."""
        return 100 * self.judge.value(candidate, self.dev)

    def compare_on_dev(self, old: Candidate, new: Candidate) -> Comparison:
        """The two on the rows of dev. Raises BudgetSpent."""
        return self.judge.compare(old, new, self.dev)

    def too_long(self, candidate: Candidate) -> str:
        """Why a prompt is not even asked; empty if it may be."""
        size = self.judge.size(candidate)
        return f"{size} tokens, and {self.cfg.longest} are allowed" if size > self.cfg.longest else ""

    def best(self) -> Trial:
        """The highest on dev, of equal ones the first."""
        return max((t for t in self.trials if t.dev is not None), key=lambda t: (t.dev, -t.number))

    def keep(self) -> None:
        """Write down what was tried so far."""
        write_trials(self.context.folder / CANDIDATES, self.trials)

    def costs(self) -> dict[str, float]:
        """Calls and tokens of the search, for the record's `compute`."""
        spent = {"calls": self.budget.spent, "answers": self.budget.answered, "texts": self.budget.written}
        return {f"search_{name}": float(value) for name, value in (spent | {"tokens": self.budget.used}).items()}

    def remark(self) -> str:
        """What a reader of the result must know."""
        best, first = self.best(), next(t for t in self.trials if t.dev is not None)
        writer = f", written by {self.writer_name()}" if is_writing(self.cfg) else ""
        return (
            f"prompt {best.number} of {len(self.trials)} tried ({self.cfg.by}{writer}) was chosen on {len(self.dev)} "
            f"dev rows: {best.dev:.1f} there, the first {first.dev:.1f}. The best of many flatters itself on dev; "
            "test was read once, by it alone"
        )

    def writer_name(self) -> str:
        """Of whom the record tells."""
        cfg = self.cfg
        return {OWN: self.context.cfg.model.name, "remote": f"{cfg.model} at {cfg.url}"}.get(cfg.writer, cfg.writer)

    def report(self) -> StageReport:
        """What the stage did."""
        best, kept = self.best(), [t for t in self.trials if t.dev is not None]
        facts: dict[str, float | str | None] = {
            "tried": len(self.trials), "scored_on_dev": len(kept), "chosen": best.number, "dev_rows": len(self.dev),
        }  # fmt: skip
        return StageReport(
            "prompt_search",
            tokens=self.budget.used,
            seconds=self.context.clock.wall["train"],
            dev_score=best.dev,
            facts=facts | dict(self.costs()),
            notes=self.notes,
        )


def options(context: Context) -> PromptSearchOptions:
    """`method.prompt_search`."""
    found: PromptSearchOptions = context.cfg.method.options("prompt_search")
    return found


def local_author(learner: Learner, cfg: PromptSearchOptions, seed: int) -> LocalAuthor:
    """The run's own model as a writer."""
    backbone = learner.backbone
    return LocalAuthor(learner.model, backbone.tokenizer, cfg, seed, backbone.max_positions)
