"""Promptor (arXiv 2310.08101): a prompt of fixed parts, written from what is known of a task.

In the paper an agent asks a designer until nothing is missing, and then writes the prompt. Here the designer is the
task's data and the options, and the agent asks the writer for what they lack: a sentence about the task, and a
definition of each label. The parts and all wording are ours; the paper's were not seen.

The instruction names the word of every label exactly once: whatever names one elsewhere is left out, and noted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from peftbench.formulations.prompts import Writer
from peftbench.stages.prompt_search.candidates import Candidate, has_places
from peftbench.stages.prompt_search.searching import Search
from peftbench.stages.prompt_search.writers import text_in
from peftbench.tasks.base import Row

SEEN = 2
"""Train rows of a label that a writer is shown."""
LETTERS = 200
"""Of a row that is shown, and of a written sentence that is taken."""


def promptor(search: Search) -> None:
    """One prompt, scored on dev. Raises BudgetSpent."""
    candidate = composed(search)
    search.note(candidate, operator="promptor", kept=True).dev = search.on_dev(candidate)


def composed(search: Search) -> Candidate:
    """The prompt; parts that would name a label a second time are left out."""
    words = Writer(search.base, search.form, search.context.data).words
    parts = dict(_parts(search, words))
    for name in [*parts]:
        if name != "labels" and (named := named_in(parts[name], words.values())):
            search.notes.append(f"promptor left out `{name}`, which names `{named[0]}`: {parts.pop(name)}")
    return Candidate(parts, search.first_examples(), search.form)


def _parts(search: Search, words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    data = search.context.data
    code = data.languages[0] if data.languages else ""
    language = (search.base.languages or {}).get(code)
    yield "role", f"You read {f'{language} ' if language else ''}texts with care and judge them as an expert would."
    if about := search.cfg.about or data.instruction or _asked_about(search, words):
        yield "task", about
    yield "constraints", "Judge by what is given alone. Do not explain."
    if words:
        yield "labels", "Possible answers:\n" + "\n".join(_defined(search, label, words) for label in words)
        yield "format", "Write one of the possible answers as it stands above, and add nothing."
        yield "failure", "Where several would do, choose the best fit."
    else:
        yield "format", "Write the answer in the form of the examples, and add nothing."
        yield "failure", "Where you are unsure, write the most likely answer."


def _asked_about(search: Search, words: Mapping[str, str]) -> str:
    """A sentence about the task; empty without a writer."""
    if search.cfg.writer == "none":
        return ""
    shown = "\n".join(f"- {_short(row)} -> {words.get(str(row.target), row.target)}" for row in _some(search.train))
    answer = search.write(
        f"These are inputs and right answers of a task:\n{shown}\n\nSay in one sentence what one has to do, without "
        "naming the answers. Write it between <text> and </text>."
    )
    return sentence(answer)


def _defined(search: Search, label: str, words: Mapping[str, str]) -> str:
    """A line of the part `labels`: the label's word and, if there is one that names no label, its definition."""
    said = search.cfg.definitions.get(label) or _asked_definition(search, label, words)
    if named := named_in(said, words.values()):
        search.notes.append(f"promptor left out the definition of `{label}`, which names `{named[0]}`: {said}")
        said = ""
    return f"- {words[label]}: {said}" if said else f"- {words[label]}"


def _asked_definition(search: Search, label: str, words: Mapping[str, str]) -> str:
    if search.cfg.writer == "none":
        return ""
    rows = [row for row in search.train if row.target == label][:SEEN]
    shown = "\n".join(f"- {_short(row)}" for row in rows)
    others = ", ".join(word for word in words.values())
    answer = search.write(
        f"In a task the answer is one of: {others}. The right answer to these inputs is `{words[label]}`:\n{shown}\n\n"
        "Define in one short sentence when this answer is right, without naming it or another answer. Write it between "
        "<text> and </text>."
    )
    return sentence(answer)


def sentence(answer: str) -> str:
    """The first line of what was written, not longer than `LETTERS`; empty if a prompt would fill something in."""
    line = next((line.strip() for line in text_in(answer).splitlines() if line.strip()), "")
    return "" if has_places(line) else line[:LETTERS]


def named_in(text: str, words: Iterable[str]) -> list[str]:
    """Those of the words that stand in the text as whole words, whatever their case."""
    return [word for word in words if times(word, text)]


def times(word: str, text: str) -> int:
    """How often a word, or several in a row, stands in a text as a whole, whatever its case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _some(rows: Sequence[Row]) -> list[Row]:
    """The first rows, at most one a label and five in all."""
    return list({str(row.target): row for row in reversed(rows)}.values())[:5]


def _short(row: Row) -> str:
    return row.whole[:LETTERS]
