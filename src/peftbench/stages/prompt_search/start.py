"""The prompt that a search begins with."""

from __future__ import annotations

from peftbench.stages.prompt_search.candidates import Candidate, filled
from peftbench.stages.prompt_search.promptor import composed
from peftbench.stages.prompt_search.searching import Search


def first_prompt(search: Search) -> Candidate:
    """The sections of the options, or promptor's."""
    cfg = search.cfg
    if cfg.start == "promptor":
        return composed(search)
    texts = {name: filled(text, search.base, search.form, search.context.data) for name, text in cfg.sections.items()}
    return Candidate(texts, search.first_examples(), search.form)
