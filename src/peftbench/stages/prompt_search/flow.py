"""PromptFlow (Wang et al., arXiv 2510.12246): a prompt's parts are edited one at a time, as layers are trained.

A step draws a batch of train rows and a part of the prompt, and an operator by the policy's chances. The new prompt and
the present one answer the same rows; the difference is the reward. A new prompt that is better on the batch is compared
on the dev rows, and takes the other's place if it is better there too. So the dev score of the present prompt never
falls. Published are the parts, the operators' names and that experience is recycled by reinforcement learning; batch
sizes, chances, acceptance and ends are our reading (`docs/language-models.md`).
"""

from __future__ import annotations

import numpy as np

from peftbench.stages.prompt_search.candidates import EXAMPLES, Candidate, Trial, has_places
from peftbench.stages.prompt_search.operators import OPERATORS, Edit, Mistake, applicable
from peftbench.stages.prompt_search.policy import Policy
from peftbench.stages.prompt_search.searching import Search
from peftbench.stages.prompt_search.start import first_prompt
from peftbench.stages.prompt_search.writers import text_in
from peftbench.tasks.base import Row


def promptflow(search: Search) -> None:
    """Steps until `steps`, or until `patience` of them in a row kept nothing. Raises BudgetSpent."""
    Flow(search).go()


class Flow:
    """The present prompt and what was learned on the way to it."""

    def __init__(self, search: Search) -> None:
        cfg = search.cfg
        self.search, self.cfg = search, cfg
        self.policy = Policy(cfg.policy == "q", cfg.rate, cfg.softness, cfg.steps)
        self.present = first_prompt(search)
        first = search.note(self.present, kept=True)
        self.place = first.number
        first.dev = search.on_dev(self.present)
        self.helped: list[str] = []

    def go(self) -> None:
        """All steps."""
        since = 0
        for step in range(self.cfg.steps):
            since = 0 if self.step(step) else since + 1
            if self.cfg.patience is not None and since >= self.cfg.patience:
                self.search.notes.append(f"ended after step {step + 1}: {since} steps in a row kept nothing")
                return

    def step(self, number: int) -> bool:
        """One edit; whether it was kept. Raises BudgetSpent."""
        random = np.random.RandomState([self.search.context.cfg.seed % 2**32, number])
        batch = self.batch(random)
        chosen = self.choose(number, random, batch)
        if chosen is None:
            return False
        edit, operator = chosen
        new = OPERATORS[operator].apply(edit)
        trial = self.search.note(new, parent=self.place, section=edit.section, operator=operator)
        trial.reason = self.fault(edit, new, operator)
        gain = 0.0 if trial.reason else self.reward(trial, new, batch)
        trial.q = self.policy.learn(edit.section, operator, gain)
        trial.kept = gain > 0 and self.is_better(trial, new)
        if trial.kept:
            self.helped = [*self.helped, f"[{edit.section}] {operator}: {_said(new, edit)}"][-self.cfg.remembered :]
            self.helped = self.helped if self.cfg.remembered else []
            self.present, self.place = new, trial.number
        return trial.kept

    def batch(self, random: np.random.RandomState) -> list[Row]:
        """Rows of train, drawn without repeats."""
        rows = self.search.train
        return [rows[i] for i in random.permutation(len(rows))[: self.cfg.batch]]

    def choose(self, number: int, random: np.random.RandomState, batch: list[Row]) -> tuple[Edit, str] | None:
        """A part, any alike, and an operator for it; None if there is nothing to do to any part."""
        mistakes = self.mistakes(batch)
        open_ = [(e, fit) for e in self.edits(random, mistakes) if (fit := applicable(e, self.cfg.operators))]
        if not open_:
            return None
        edit, operators = open_[random.randint(len(open_))]
        chances = self.policy.chances(edit.section, operators, number)
        return edit, str(random.choice(operators, p=chances))

    def edits(self, random: np.random.RandomState, mistakes: list[Mistake]) -> list[Edit]:
        """One for each part."""
        pool = [row.id for row in self.search.train]
        return [
            Edit(self.present, section, mistakes, self.versions(section), self.helped, pool, random, self.ask)
            for section in (*self.present.sections, EXAMPLES)
        ]

    def ask(self, question: str) -> str:
        """The text that the writer puts in. Raises BudgetSpent."""
        return text_in(self.search.write(question))

    def mistakes(self, batch: list[Row]) -> list[Mistake]:
        """Of the present prompt on the batch. Raises BudgetSpent."""
        kind = self.search.context.data.kind
        answers = self.search.judge.answers(self.present, batch)
        pairs = [(row, a) for row, a in zip(batch, answers, strict=True) if not kind.is_right(row.target, a)]
        return [Mistake(r.whole, kind.show(r.target), "none" if a is None else kind.show(a)) for r, a in pairs]

    def versions(self, section: str) -> list[str]:
        """Other texts of a part that were asked, the best gain on their batch first."""
        if section == EXAMPLES:
            return []
        asked = [t for t in self.search.trials if t.section == section and t.batch is not None]
        asked.sort(key=lambda t: (t.batch[0] - t.batch[1], t.number))  # type: ignore[index]
        texts = dict.fromkeys(t.sections[section] for t in asked)
        return [text for text in texts if text != self.present.sections[section]]

    def fault(self, edit: Edit, new: Candidate, operator: str) -> str:
        """Why a new prompt is not asked; empty if it is."""
        if new.key == self.present.key and operator != "identity":
            return "unchanged"
        text = new.sections.get(edit.section, "")
        if edit.section != EXAMPLES and not text:
            return "nothing was written"
        if edit.section != EXAMPLES and has_places(text) and text != edit.text:
            return "has places such as {label}"
        return self.search.too_long(new)

    def reward(self, trial: Trial, new: Candidate, batch: list[Row]) -> float:
        """The gain on the batch. Raises BudgetSpent."""
        judge = self.search.judge
        found = judge.compare(self.present, new, batch)
        old = judge.value(self.present, batch)
        trial.batch = (100 * old, 100 * (old + found.gain))
        trial.wins, trial.losses = found.wins, found.losses
        return found.gain

    def is_better(self, trial: Trial, new: Candidate) -> bool:
        """Whether it is better on dev too. Raises BudgetSpent."""
        found = self.search.compare_on_dev(self.present, new)
        trial.dev, trial.dev_p = self.search.on_dev(new), found.p
        return found.gain > 0


def _said(new: Candidate, edit: Edit) -> str:
    if edit.section == EXAMPLES:
        return f"{len(new.examples)} examples are shown"
    return new.sections[edit.section]
