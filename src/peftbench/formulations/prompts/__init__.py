"""Prompts as files: an instruction, and a form in which demonstrations and the asked row are written. Free of torch.

A set is packaged (`plain`, `minimal`, `by_hand`, `one_word`, `masakhanews`, `afrobench`) or a YAML file of the user's:

    source: where it comes from
    words: {business: Business, ...}         # what stands for a label; optional
    prompts:
      - instruction: "One of {labels}."      # in front of everything; optional
        example: "{text}\\nTopic: {answer}"   # ends with {answer}, which is left open for the asked row
        separator: "\\n\\n"                    # between instruction, demonstrations and asked row; optional

In an example stand the fields of the row: the task's own (`{sentence}`, `{aspect}`), `{text}` and `{pair}`, or
`{fields}` for all of them with their names. In an instruction stand `{labels}`, the words of all labels with commas
between, and `{language}`; one with `{labels}` is left out for a task that has none. What the task itself says it asks
for (`instruction` in its YAML) stands in front of all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from peftbench.config.user_files import read_yaml
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import Row, TaskData, text_fields

KEY = "method.formulation.prompts"
ANSWER, FIELDS = "answer", "fields"
ABOUT_TASK = ("labels", "language")
PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Prompt:
    """One form; its parts are explained at the top of this module."""

    example: str
    instruction: str = ""
    separator: str = "\n\n"


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one source.

    Attributes:
        name: as `method.formulation.prompts` has it.
        words: label name -> what stands for it; None: what the task says.
        languages: the task's code of a language -> its name.
    """

    name: str
    prompts: tuple[Prompt, ...]
    words: Mapping[str, str] | None = None
    languages: Mapping[str, str] | None = None
    source: str = ""

    def written_out(self) -> str:
        """What `prompt_set` makes the same prompts of."""
        plain = asdict(self)
        return json.dumps({k: v for k, v in plain.items() if k != "name" and v is not None}, ensure_ascii=False)


def packaged_sets() -> list[str]:
    """Names of the sets that come with the package."""
    return sorted(item.name.removesuffix(".yaml") for item in files(__name__).iterdir() if item.name.endswith(".yaml"))


def prompt_set(name: str) -> PromptSet:
    """The packaged set of that name, that of a file, or one that is written out, `{prompts: [{example: ...}]}`.

    Raises:
        UsageError: there is none, or it is no set; the message names the entry.
    """
    if name in packaged_sets():
        return _set(name, name, yaml.safe_load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")))
    if is_written_out(name):
        try:
            return _set("written out", KEY, yaml.safe_load(name))
        except yaml.YAMLError as error:
            raise UsageError(f"{KEY}: not valid YAML: {error}") from None
    path = Path(name).expanduser()
    if not path.is_file():
        raise UsageError(f"{KEY}={name}: neither a file nor a set of prompts. {did_you_mean(name, packaged_sets())}")
    return _set(name, str(path), read_yaml(path))


def is_written_out(name: str) -> bool:
    """Whether it is a set in itself."""
    return name.startswith("{")


def _set(name: str, where: str, plain: Mapping[str, Any]) -> PromptSet:
    known = ("prompts", "words", "languages", "source")
    for key in plain:
        if key not in known:
            raise UsageError(f"{where}: {key}: no such key. {did_you_mean(str(key), known)}")
    listed = plain.get("prompts")
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{where}: `prompts` has to be a list with an entry `example: ...` for each prompt.")
    found = tuple(read_prompt(f"{where}: prompts[{number}]", entry) for number, entry in enumerate(listed))
    for key in ("words", "languages"):
        given = plain.get(key)
        if given is not None and not (isinstance(given, dict) and all(isinstance(v, str) for v in given.values())):
            raise UsageError(f"{where}: `{key}` has to be a mapping to texts; put numbers and yes/no in quotes.")
    return PromptSet(name, found, plain.get("words"), plain.get("languages"), str(plain.get("source", "")))


def read_prompt(where: str, entry: Any) -> Prompt:
    """A prompt from its entry; raises UsageError, beginning with `where`."""
    known = tuple(Prompt.__dataclass_fields__)
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise UsageError(f"{where}: has to be a mapping of {', '.join(known)} to texts.")
    for key in entry:
        if key not in known:
            raise UsageError(f"{where}.{key}: no such key. {did_you_mean(str(key), known)}")
    example = entry.get("example", "")
    places = PLACE.findall(example)
    if not example.endswith(f"{{{ANSWER}}}") or places.count(ANSWER) != 1:
        raise UsageError(f"{where}.example: has to end with {{{ANSWER}}}, and have it once. It is `{example}`.")
    if len(places) < 2:
        raise UsageError(f"{where}.example: has no field of the row, such as {{text}}. It is `{example}`.")
    return Prompt(**entry)


class Writer:
    """Writes prompts for the rows of one task.

    Args:
        chosen: the set.
        number: which prompt of it.

    Raises:
        UsageError: the set has no such prompt, no word for a label, or names what the task does not have.
    """

    def __init__(self, chosen: PromptSet, number: int, task: TaskData) -> None:
        if number >= len(chosen.prompts):
            raise UsageError(
                f"method.formulation.prompt_number={number}: the set `{chosen.name}` has {len(chosen.prompts)} "
                f"prompts, 0 to {len(chosen.prompts) - 1}."
            )
        self.chosen, self.prompt, self.task = chosen, chosen.prompts[number], task
        self.places = [name for name in PLACE.findall(self.prompt.example) if name != ANSWER]
        self.words = {label: self._word(label) for label in task.labels}
        unfit = "{labels}" in self.prompt.instruction and not task.labels
        self.instruction = "" if unfit else self._fill(self.prompt.instruction, self._about_task(), "instruction")

    def _word(self, label: str) -> str:
        words = self.chosen.words
        if words is None:
            return self.task.label_words.get(label, label)
        if label not in words:
            raise UsageError(
                f"{KEY}={self.chosen.name}: has no word for the label `{label}` of task {self.task.name}. "
                f"{did_you_mean(label, words)} Use {KEY}=plain, which takes any labels, or a file with a word for each."
            )
        return words[label]

    def _about_task(self) -> dict[str, str]:
        facts = {"labels": ", ".join(self.words.values())}
        code = self.task.languages[0] if self.task.languages else ""
        name = (self.chosen.languages or {}).get(code)
        return facts | ({"language": name} if name else {})

    def _fill(self, form: str, values: Mapping[str, str], part: str) -> str:
        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name not in values:
                raise UsageError(
                    f"{KEY}={self.chosen.name}: {part}: task {self.task.name} (subset {self.task.subset}) has "
                    f"nothing for {{{name}}}. {did_you_mean(name, values)}"
                )
            return values[name]

        return PLACE.sub(value, form)

    def fields_of(self, row: Row) -> dict[str, str]:
        """The texts of a row that the prompt has places for, by name, in the order of the places.

        Raises:
            UsageError: the row lacks one.
        """
        own = text_fields(row, self.task)
        known = {**(row.parts or {}), "text": row.text, **({} if row.pair is None else {"pair": row.pair}), **own}
        for name in self.places:
            if name != FIELDS and name not in known:
                raise UsageError(
                    f"{KEY}={self.chosen.name}: example: rows of task {self.task.name} have no field {{{name}}}. "
                    f"{did_you_mean(name, [*known, FIELDS])}"
                )
        return {k: v for place in self.places for k, v in (own if place == FIELDS else {place: known[place]}).items()}

    def example(self, fields: Mapping[str, str], answer: str = "") -> str:
        """A row in the prompt's form; without an answer, with what stands before it."""
        every = " ".join(f"{name}: {text}" for name, text in fields.items())
        text = self._fill(self.prompt.example, {**fields, FIELDS: every, ANSWER: answer}, "example")
        return text if answer else text.rstrip()

    def ends(self, demonstrations: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Where in the whole prompt the answers of the demonstrations stand, with which these end."""
        place = len(self.instruction) + len(self.prompt.separator) if self.instruction else 0
        for text, size in zip(demonstrations, sizes, strict=True):
            yield place + len(text) - size, place + len(text)
            place += len(text) + len(self.prompt.separator)

    def write(self, demonstrations: Sequence[str], asked: str) -> str:
        """The whole prompt."""
        parts = [self.instruction] if self.instruction else []
        return self.prompt.separator.join([*parts, *demonstrations, asked])
