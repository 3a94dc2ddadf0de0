"""The `prompt_search` stage: a search from its beginning to the model that is asked by what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import yaml

from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.formulations.prompts import PromptSet
from peftbench.learner import Learner
from peftbench.stages.base import Context, Predictor
from peftbench.stages.learning import LearnerPredictor, fresh
from peftbench.stages.prompt_search.candidates import Candidate
from peftbench.stages.prompt_search.flow import promptflow
from peftbench.stages.prompt_search.judge import BudgetSpent
from peftbench.stages.prompt_search.listed import listed
from peftbench.stages.prompt_search.peer import gepa
from peftbench.stages.prompt_search.promptor import promptor
from peftbench.stages.prompt_search.searching import Search

PROMPT = "prompt.yaml"
"""File in the run's folder: the prompt that was found, as a set for `formulation.prompts`."""
WAYS: dict[str, Callable[[Search], None]] = {
    "promptflow": promptflow,
    "promptor": promptor,
    "listed": listed,
    "gepa": gepa,
}
"""By `method.prompt_search.by`."""


def check(context: Context) -> None:
    """Raises UsageError if there are no dev rows to choose by."""
    if not context.draw.dev:
        raise UsageError(
            f"protocol={context.cfg.protocol.name}: has no dev rows, a prompt is chosen on dev, and test is not for "
            "choosing. Use protocol.dev=fixed or a protocol with dev rows (default)."
        )


def prompt_search(context: Context, incoming: Predictor | None) -> Predictor:
    """Search; the model asked by the prompt that did best on dev, of equal ones the first."""
    predictor = incoming if isinstance(incoming, LearnerPredictor) else fresh(context)
    search = Search(context, predictor)
    found = found_by(search)
    context.reports.append(search.report())
    return found


class FoundPrompt(LearnerPredictor):
    """A model asked by a prompt that was searched for."""

    def __init__(self, learner: Learner, context: Context, search: Search) -> None:
        super().__init__(learner, context)
        self.search = search

    def costs(self) -> dict[str, float]:
        return self.search.costs()

    def remarks(self) -> list[str]:
        return [*super().remarks(), self.search.remark()]


def found_by(search: Search) -> FoundPrompt:
    """Search until the way to search ends or the budget is spent, and write both files."""
    try:
        WAYS[search.cfg.by](search)
    except BudgetSpent:
        search.notes.append("the budget was spent")
    if not any(trial.dev is not None for trial in search.trials):
        raise UsageError(
            f"method.prompt_search.calls={search.cfg.calls}, tokens={search.cfg.tokens}: not enough to score one "
            f"prompt on {len(search.dev)} dev rows. Raise them, or lower method.prompt_search.validation."
        )
    search.keep()
    best = search.candidates[search.best().number]
    plain = yaml.safe_dump(as_set(best, search.base), sort_keys=False, allow_unicode=True, width=120)
    write_atomic(search.context.folder / PROMPT, plain.encode("utf-8", "surrogatepass"))
    return FoundPrompt(search.judge.posed(best).learner, search.context, search)


def as_set(candidate: Candidate, base: PromptSet) -> dict[str, object]:
    """A found prompt as a file for `method.formulation.prompts`."""
    made = candidate.written(base)
    plain: dict[str, object] = {"source": made.source}
    plain |= {key: dict(value) for key, value in (("words", made.words), ("languages", made.languages)) if value}
    return plain | {"prompts": [asdict(made.prompts[0])]}
