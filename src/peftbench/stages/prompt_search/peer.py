"""gepa (Agrawal et al., arXiv 2507.19457), the library itself, on the same model, rows, writer and budget.

It changes the parts of the instruction; examples stay as they are. Its score of a row is 1 if the answer is right, and
it keeps a front of prompts by single dev rows. Of those that it scored on all dev rows the best by the task's metric is
taken, as for every search here. It is stopped where the budget ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peftbench.stages.prompt_search.candidates import Candidate, Trial, has_places
from peftbench.stages.prompt_search.searching import Search
from peftbench.stages.prompt_search.start import first_prompt
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from gepa import EvaluationBatch


LETTERS = 500
"""Of a row that a reflection sees."""


def gepa(search: Search) -> None:
    """Raises BudgetSpent where the budget ends first."""
    from gepa import optimize

    cfg, adapter = search.cfg, Adapter(search)
    optimize(
        {name: text for name, text in adapter.first.sections.items() if text},
        trainset=list(search.train),
        valset=list(search.dev),
        adapter=adapter,  # type: ignore[arg-type]
        reflection_lm=lambda prompt: search.write(str(prompt)),
        reflection_minibatch_size=min(cfg.batch, len(search.train)),
        stop_callbacks=[Steps(cfg.steps)],
        logger=Quiet(),
        track_best_outputs=False,
        seed=search.context.cfg.seed,
    )


class Steps:
    """Stops the library behind a number of its steps, as other searches stop."""

    def __init__(self, steps: int) -> None:
        self.left = steps + 1  # asked before the first step, too

    def __call__(self, gepa_state: Any) -> bool:
        self.left -= 1
        return self.left < 0


class Quiet:
    """Prints nothing."""

    def log(self, message: str) -> None:
        """Nothing."""


class Adapter:
    """What the library asks of a program that it changes."""

    propose_new_texts = None

    def __init__(self, search: Search) -> None:
        self.search, self.first = search, first_prompt(search)
        self.trials: dict[str, Trial] = {}

    def evaluate(
        self, batch: list[Row], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Whether each row is answered rightly; a prompt that is not asked has no right answers. Raises BudgetSpent."""
        from gepa import EvaluationBatch

        search, made = self.search, replace(self.first, sections={**self.first.sections, **candidate})
        trial = self.trial_of(made)
        if trial.reason:
            return EvaluationBatch([None] * len(batch), [0.0] * len(batch), [(row, None) for row in batch])
        answers = search.judge.answers(made, batch)
        if trial.dev is None and [row.id for row in batch] == [row.id for row in search.dev]:
            trial.dev = search.on_dev(made)
        is_right = search.context.data.kind.is_right
        scores = [float(is_right(row.target, answer)) for row, answer in zip(batch, answers, strict=True)]
        return EvaluationBatch(answers, scores, list(zip(batch, answers, strict=True)))

    def trial_of(self, candidate: Candidate) -> Trial:
        """The line of a prompt, made when it is first seen."""
        if candidate.key not in self.trials:
            reason = self.search.too_long(candidate)
            if any(has_places(text) for text in candidate.sections.values()):
                reason = "has places such as {label}"
            changed = [name for name, text in candidate.sections.items() if text != self.first.sections.get(name)]
            operator = "gepa" if self.trials else ""
            self.trials[candidate.key] = self.search.note(
                candidate, section=", ".join(changed), operator=operator, reason=reason
            )
        return self.trials[candidate.key]

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[Any, Any], components_to_update: Sequence[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The rows, what was answered, and what would have been right."""
        told = [self.told(row, answer) for row, answer in eval_batch.trajectories or ()]
        return dict.fromkeys(components_to_update, told)

    def told(self, row: Row, answer: Any) -> dict[str, str]:
        """One row and its answer, in words."""
        kind = self.search.context.data.kind
        given = "none" if answer is None else kind.show(answer)
        said = "right" if kind.is_right(row.target, answer) else f"The right answer is {kind.show(row.target)}."
        return {"Inputs": row.whole[:LETTERS], "Generated Outputs": given, "Feedback": said}
