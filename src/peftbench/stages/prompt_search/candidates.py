"""Prompts made of parts, what became of each that was tried, and the file that keeps them. Free of torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from peftbench.files import write_atomic
from peftbench.formulations.prompts import Prompt, PromptSet, Writer
from peftbench.tasks.base import TaskData

EXAMPLES = "examples"
"""The part of a prompt that is no text: labelled rows shown as demonstrations."""
_PLACE = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Candidate:
    """A prompt of parts.

    Attributes:
        sections: name -> text of each part of the instruction, in their order; an empty one is left out.
        examples: ids of the train rows that are shown behind it.
        form: number of the prompt in the set that says how a row is written.
    """

    sections: Mapping[str, str]
    examples: tuple[str, ...] = ()
    form: int = 0

    @property
    def instruction(self) -> str:
        """The parts that are texts, one below the other."""
        return "\n".join(text for text in self.sections.values() if text)

    @property
    def key(self) -> str:
        """Equal for equal prompts."""
        said = [self.instruction, self.examples, self.form]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()

    def edited(self, section: str, text: str) -> Candidate:
        """The same but for one part."""
        return replace(self, sections={**self.sections, section: text})

    def written(self, base: PromptSet) -> PromptSet:
        """As a set of one prompt, in the form and with the words of `base`."""
        prompt = replace(base.prompts[self.form], instruction=self.instruction)
        return replace(base, name="found", prompts=(prompt,), source="found by peftbench's prompt_search")


def has_places(text: str) -> bool:
    """Whether a writer put in something like {label}, which a prompt would fill in."""
    return _PLACE.search(text) is not None


def filled(text: str, base: PromptSet, form: int, task: TaskData) -> str:
    """A part of ours or of a set with its places ({labels}, {language}) filled in; empty if it lists labels and the
    task has none.

    Raises:
        UsageError: it names what the task does not have.
    """
    alone = Prompt(base.prompts[form].example, text, base.prompts[form].separator)
    return Writer(replace(base, prompts=(alone,)), 0, task).instruction


@dataclass
class Trial:
    """One line of `candidates.jsonl`: a prompt, where it came from, and how it did.

    Attributes:
        number: 0 for the first.
        parent: the number of the prompt that it was made from; None: of none.
        section, operator: which part was edited, and how.
        batch: score of parent and of this one on the step's rows of train, in percent.
        wins, losses: rows of the batch that only this one, or only the parent, has right.
        dev: score on the dev rows of the search, in percent; None if it was not asked so far.
        dev_p: of dev rows that only one of the two has right: exact two-sided sign test.
        kept: whether it took the parent's place.
        reason: why not, if it was not even asked.
        q: the operator's value for the section after this step.
        calls, tokens: spent by the whole search until then.
        prompt: the instruction; `sections` and `examples` are its parts.
    """

    number: int
    parent: int | None = None
    section: str = ""
    operator: str = ""
    batch: tuple[float, float] | None = None
    wins: int | None = None
    losses: int | None = None
    dev: float | None = None
    dev_p: float | None = None
    kept: bool = False
    reason: str = ""
    q: float | None = None
    calls: int = 0
    tokens: int = 0
    sections: dict[str, str] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    form: int = 0


def write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """All that were tried, a JSON line each."""
    lines = (json.dumps(asdict(trial), ensure_ascii=False) + "\n" for trial in trials)
    write_atomic(path, "".join(lines).encode("utf-8", "surrogatepass"))
