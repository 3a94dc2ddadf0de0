"""What can be done to one part of a prompt. Free of torch.

PromptFlow (arXiv 2510.12246) names chain of thought, reflection, differential evolution, rewriting, and examples that
come and go; how each asks its model was not published, so the wording here is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftbench.stages.prompt_search.candidates import EXAMPLES, Candidate

SHOWN = 300
"""Letters of a row's text that a writer is shown."""
MISTAKES = 4
"""Wrong answers that a writer is shown, at most."""


@dataclass(frozen=True)
class Mistake:
    """A row that the present prompt gets wrong: its text, the right answer, and the one that was given."""

    text: str
    right: str
    given: str


@dataclass(frozen=True)
class Edit:
    """What an operator has to work with.

    Attributes:
        candidate: the present prompt.
        section: the part to change.
        mistakes: of the present prompt on the rows of this step.
        versions: other texts that this part had so far, the best first.
        helped: the last edits that were kept, in words.
        pool: ids of the rows that may be shown as examples.
        random: of this step.
        ask: has the writer answer a question; its text.
    """

    candidate: Candidate
    section: str
    mistakes: Sequence[Mistake]
    versions: Sequence[str]
    helped: Sequence[str]
    pool: Sequence[str]
    random: np.random.RandomState
    ask: Callable[[str], str]

    @property
    def text(self) -> str:
        """The part as it is."""
        return self.candidate.sections[self.section]

    def rewritten(self, wish: str) -> Candidate:
        """The prompt with what the writer makes of the part."""
        return self.candidate.edited(self.section, self.ask(question(self, wish)))


def question(edit: Edit, wish: str) -> str:
    """What the writer is asked: the whole prompt, the part, the wish, and what helped before."""
    parts = "\n".join(f"[{name}] {text}" for name, text in edit.candidate.sections.items() if text)
    helped = "".join(f"- {one}\n" for one in edit.helped)
    return (
        f"A language model does a task by a prompt of these parts:\n\n{parts}\n\n"
        f"Change the part [{edit.section}] alone. It says: {edit.text or '(nothing yet)'}\n\n"
        f"{wish}\n\n"
        + (f"Changes that helped before:\n{helped}\n" if helped else "")
        + f"Write the new text of the part [{edit.section}] between <text> and </text>."
    )


def rewrite(edit: Edit) -> Candidate:
    """The same in other words."""
    return edit.rewritten("Say the same more clearly and in fewer words.")


def think(edit: Edit) -> Candidate:
    """Chain of thought: what is hard about the task comes first, then the text."""
    return edit.rewritten(
        "First think step by step about what is hard in this task and what the model has to know. Then write a text of "
        "this part that says it."
    )


def reflect(edit: Edit) -> Candidate:
    """A textual gradient: the writer sees what went wrong, says why, and writes a text against it."""
    shown = "\n".join(
        f"- input: {one.text[:SHOWN]}\n  right answer: {one.right}\n  answer given: {one.given}"
        for one in edit.mistakes[:MISTAKES]
    )
    return edit.rewritten(
        f"With this prompt the model made these mistakes:\n{shown}\n\nFirst say why. Then write a text of this part "
        "with which they would not happen, and which still holds for other inputs."
    )


def cross(edit: Edit) -> Candidate:
    """Differential evolution: what sets two earlier texts of the part apart is carried over to the present one."""
    first, second = edit.versions[:2]
    return edit.rewritten(
        f"Two other texts of this part were tried. A, the better one: {first}\nB: {second}\n\nFirst say in what A "
        "differs from B. Then make the same difference to the present text."
    )


def add_example(edit: Edit) -> Candidate:
    """One more row, drawn from those that are not shown."""
    left = [row for row in edit.pool if row not in edit.candidate.examples]
    return _with_examples(edit.candidate, (*edit.candidate.examples, left[edit.random.randint(len(left))]))


def drop_example(edit: Edit) -> Candidate:
    """One row less, drawn from those that are shown."""
    place = edit.random.randint(len(edit.candidate.examples))
    shown = edit.candidate.examples
    return _with_examples(edit.candidate, shown[:place] + shown[place + 1 :])


def _with_examples(candidate: Candidate, examples: tuple[str, ...]) -> Candidate:
    return Candidate(candidate.sections, examples, candidate.form)


def identity(edit: Edit) -> Candidate:
    """Nothing: a control, whose gain is 0."""
    return edit.candidate


@dataclass(frozen=True)
class Operator:
    """A way to change a part.

    Attributes:
        apply: makes the new prompt.
        asks: whether a writer is asked.
        examples: whether it changes the examples; else a text.
        possible: whether there is something to do.
    """

    apply: Callable[[Edit], Candidate]
    asks: bool = True
    examples: bool = False
    possible: Callable[[Edit], bool] = lambda edit: True


OPERATORS: Mapping[str, Operator] = {
    "rewrite": Operator(rewrite, possible=lambda edit: bool(edit.text)),
    "think": Operator(think),
    "reflect": Operator(reflect, possible=lambda edit: bool(edit.mistakes)),
    "cross": Operator(cross, possible=lambda edit: len(edit.versions) > 1),
    "add_example": Operator(
        add_example, asks=False, examples=True, possible=lambda edit: len(edit.pool) > len(edit.candidate.examples)
    ),
    "drop_example": Operator(
        drop_example, asks=False, examples=True, possible=lambda edit: bool(edit.candidate.examples)
    ),
    "identity": Operator(identity, asks=False),
}


def applicable(edit: Edit, allowed: Sequence[str]) -> list[str]:
    """Those of `allowed` that have something to do to the part."""
    fitting = [name for name in allowed if OPERATORS[name].examples == (edit.section == EXAMPLES)]
    return [name for name in fitting if OPERATORS[name].possible(edit)]
