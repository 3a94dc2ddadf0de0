"""Prompts that people wrote: each prompt of the set `method.formulation.prompts` is scored on dev."""

from __future__ import annotations

from peftbench.stages.prompt_search.candidates import Candidate, filled
from peftbench.stages.prompt_search.searching import Search


def listed(search: Search) -> None:
    """Raises BudgetSpent before a prompt that cannot be paid for."""
    shown = search.first_examples()
    for number, prompt in enumerate(search.base.prompts):
        text = filled(prompt.instruction, search.base, number, search.context.data)
        candidate = Candidate({"instruction": text}, shown, number)
        trial = search.note(candidate, section="instruction", operator="listed")
        trial.dev = search.on_dev(candidate)
