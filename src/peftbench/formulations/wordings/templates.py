"""Instruction templates as data: from a task's YAML, from files of prompts, from promptsource's and FLAN's. No torch.

A template is never executed. Of promptsource's jinja is read what these parts say, and a template with anything else
is left out and counted:

    {{field}}  {{"text"}}  {{answer_choices[2]}}  {{", ".join(answer_choices)}}  {{answer_choices | join(", ")}}
    {% if label != -1 %} ... {% endif %}          around the whole, for rows without a label
    ||| {{answer_choices[label]}}                  behind the input: the answer

Left out and counted as well: *inverted* templates, which make the input from the label (their target is no answer, or
the answer stands in the input); those of another task on the same data (`original_task: false`) or with other labels;
and those with a field that the task's rows do not have.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from peftbench.config.user_files import read_text
from peftbench.errors import UsageError, did_you_mean
from peftbench.formulations.prompts import (
    ANSWER,
    FIELDS,
    PLACE,
    Prompt,
    is_written_out,
    packaged_sets,
    prompt_set,
    read_prompt,
)
from peftbench.formulations.wordings import OF_TASK, WordingsConfig
from peftbench.tasks.base import TaskData

KEY = "method.formulation.templates"
INVERTED, OTHER_TASK, OTHER_LABELS = "inverted", "of another task", "with other labels"
UNREADABLE, OTHER_FIELDS = "not readable as data", "with fields that the rows have not"
SAME_NAMES = {
    "text": ("text", "sentence", "sentence1", "premise", "content", "article", "review", "question1", "passage"),
    "pair": ("pair", "sentence2", "hypothesis", "question2"),
}
"""What data sets call a row's first and second text; a name of the task's own goes first."""
_JINJA = re.compile(r"\{\{(.*?)\}\}|\{%-?(.*?)-?%\}", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")
_TEXT = re.compile(r"\"([^\"\\]*)\"|'([^'\\]*)'")
_CHOICE = re.compile(r"answer_choices\s*\[\s*(\w+)\s*\]")
_JOIN = re.compile(
    r"\(?\s*(?:\"([^\"\\]*)\"|'([^'\\]*)')\s*\)?\s*\.join\(\s*answer_choices\s*\)"
    r"|answer_choices\s*\|\s*join\(\s*(?:\"([^\"\\]*)\"|'([^'\\]*)')\s*\)"
)
_GUARD = re.compile(r"if label\s*!=\s*-\s*1|endif")
LABELS = ("label", "coarse_label")
Entry = tuple[str, Callable[[], "Wording"]]
"""The name of a template, and what reads it."""


class Unfit(Exception):
    """Why a template is left out."""


@dataclass(frozen=True)
class Wording:
    """One way to ask.

    Attributes:
        name: the template's own, or its number.
        words: label name -> its answer in these words; None: the task's.
    """

    name: str
    prompt: Prompt
    words: Mapping[str, str] | None = None

    def plain(self) -> dict[str, Any]:
        """What `_own_entry` makes the same wording of."""
        entry: dict[str, Any] = {"name": self.name, "example": self.prompt.example}
        if self.prompt.instruction:
            entry |= {"instruction": self.prompt.instruction, "separator": self.prompt.separator}
        return entry | ({"words": dict(self.words)} if self.words else {})


@dataclass
class Collected:
    """The usable wordings of a source, and what was left out: why -> how many."""

    wordings: list[Wording] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """What came of the source, in words."""
        out = ", ".join(f"{count} {why}" for why, count in sorted(self.left_out.items()))
        every = len(self.wordings) + self.left_out.total()
        return f"templates: {len(self.wordings)} of {every} taken" + (f" (left out: {out})" if out else "")


def collect(cfg: WordingsConfig, task: TaskData) -> Collected:
    """The wordings that `templates` names, in the order in which they count: the first is the reference.

    Raises:
        UsageError: there is no such file or part, it is no collection of templates, answers stand in another order
            than the labels, or there are fewer than `observed` asks for.
    """
    found = Collected()
    for name, make in _entries(cfg, task):
        try:
            found.wordings.append(_checked(make(), task, name))
        except Unfit as why:
            found.left_out[str(why)] += 1
    found.wordings = _named_apart(found.wordings)
    if cfg.order_seed is not None:
        order = np.random.RandomState(cfg.order_seed).permutation(len(found.wordings))
        found.wordings = [found.wordings[place] for place in order]
    if cfg.words == "task":
        found.wordings = [Wording(one.name, one.prompt) for one in found.wordings]
    if len(found.wordings) < cfg.observed:
        raise UsageError(
            f"method.formulation.observed={cfg.observed}: {found.note()}. Use {max(len(found.wordings), 1)} or fewer, "
            "or other templates."
        )
    return found


def written_out(wordings: Sequence[Wording]) -> str:
    """What `collect` makes the same wordings of, in this order."""
    return json.dumps({"wordings": [one.plain() for one in wordings]}, ensure_ascii=False)


def _entries(cfg: WordingsConfig, task: TaskData) -> Iterator[Entry]:
    """Name of each template and the function that reads it."""
    name = cfg.templates
    if name == OF_TASK:
        if not task.templates:
            raise UsageError(
                f"{KEY}={name}: task {task.name} (subset {task.subset}) has no templates of its own. Give a file, "
                f"`task.templates` in the task's YAML, or one of {', '.join(packaged_sets())}."
            )
        yield from _own(task.templates, f"task.templates of {task.name}")
    elif is_written_out(name):
        yield from _own(json.loads(name)["wordings"], KEY)
    elif name.endswith(".jsonl"):
        lines = [json.loads(line) for line in read_text(Path(name)).splitlines() if line.strip()]
        of = {_data_set(line): [one for one in lines if _data_set(one) == _data_set(line)] for line in lines}
        yield from _promptsource(_part(of, cfg, task), task)
    elif name.endswith(".json"):
        yield from _flan(_part(json.loads(read_text(Path(name))), cfg, task), task)
    else:
        plain = {} if name in packaged_sets() else _read_tagged(Path(name))
        if isinstance(listed := plain.get("templates"), dict):
            yield from _promptsource(list(listed.values()), task)
        elif isinstance(listed, list):
            yield from _own(listed, name)
        else:
            chosen = prompt_set(name)
            for number, prompt in enumerate(chosen.prompts):
                yield str(number), partial(Wording, str(number), prompt, chosen.words)


def _own(listed: Any, where: str) -> Iterator[Entry]:
    """Entries in this project's form: `example`, and perhaps `name`, `instruction`, `separator`, `words`."""
    for number, entry in enumerate(listed):
        prompt = read_prompt(
            f"{where}[{number}]", {key: text for key, text in entry.items() if key not in ("name", "words")}
        )
        name = str(entry.get("name", number))
        yield name, partial(Wording, name, prompt, entry.get("words"))


def _promptsource(listed: Sequence[Mapping[str, Any]], task: TaskData) -> Iterator[Entry]:
    for entry in listed:
        yield str(entry.get("name")), partial(read_promptsource, entry, task)


def _flan(pairs: Sequence[Sequence[str]], task: TaskData) -> Iterator[Entry]:
    for number, pair in enumerate(pairs):
        yield str(number), partial(read_flan, str(number), pair, task)


def _data_set(entry: Mapping[str, Any]) -> str:
    return "/".join(str(part) for part in (entry.get("dataset"), entry.get("subset")) if part)


def _part(parts: Any, cfg: WordingsConfig, task: TaskData) -> Any:
    """The part of a file that holds the templates of several data sets."""
    if not isinstance(parts, dict):
        raise UsageError(f"{KEY}={cfg.templates}: not a mapping of data sets to lists of templates.")
    wanted = [cfg.part] if cfg.part is not None else [f"{task.name}/{task.subset}", task.subset, task.name]
    for name in wanted:
        if name in parts:
            return parts[name]
    raise UsageError(
        f"method.formulation.part={wanted[0] if cfg.part else 'null'}: {cfg.templates} has no templates of "
        f"{' or '.join(wanted)}. {did_you_mean(wanted[-1], parts)}"
    )


class _Plain(yaml.SafeLoader):
    """YAML whose tags (`!Template`) count for nothing: a mapping is a mapping."""


_Plain.add_multi_constructor("!", lambda loader, _tag, node: loader.construct_mapping(node, deep=True))


def _read_tagged(path: Path) -> dict[str, Any]:
    try:
        plain = yaml.load(read_text(path), Loader=_Plain)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(plain, dict):
        raise UsageError(f"{path}: not a mapping of keys to values.")
    return plain


def read_promptsource(entry: Mapping[str, Any], task: TaskData) -> Wording:
    """A wording from a template of promptsource: `name`, `jinja`, `answer_choices`, and perhaps `original_task`.

    Raises:
        Unfit: it is inverted, of another task or labels, or not readable as data.
    """
    original = entry.get("original_task", (entry.get("metadata") or {}).get("original_task"))
    if original is False:
        raise Unfit(OTHER_TASK)
    asked, bars, answer = str(entry.get("jinja") or "").partition("|||")
    if not bars:
        raise Unfit(UNREADABLE)
    choices = [" ".join(choice.split()) for choice in str(entry.get("answer_choices") or "").split("|||")]
    target = "".join(_pieces(answer, choices))
    if target.strip() != f"{{{ANSWER}}}":
        raise Unfit(INVERTED if PLACE.search(target) and ANSWER not in PLACE.findall(target) else UNREADABLE)
    if len(choices) != len(task.labels) or any("{" in choice for choice in choices):
        raise Unfit(OTHER_LABELS)
    text = "".join(_pieces(asked, choices))
    return _wording(str(entry.get("name")), text, dict(zip(task.labels, choices, strict=True)), task)


def _pieces(jinja: str, choices: Sequence[str]) -> Iterator[str]:
    """The template in this project's form, fields and answer in single braces."""
    end = 0
    for found in _JINJA.finditer(jinja):
        yield _literal(jinja[end : found.start()])
        end = found.end()
        yield _statement(found[2].strip()) if found[2] is not None else _expression(found[1].strip(), choices)
    yield _literal(jinja[end:])


def _literal(text: str) -> str:
    if PLACE.search(text) or "{%" in text or "{#" in text:
        raise Unfit(UNREADABLE)
    return text


def _statement(code: str) -> str:
    if not _GUARD.fullmatch(code):
        raise Unfit(UNREADABLE)
    return ""


def _expression(code: str, choices: Sequence[str]) -> str:
    if text := _TEXT.fullmatch(code):
        return _literal(text[1] or text[2] or "")
    if choice := _CHOICE.fullmatch(code):
        if choice[1] in LABELS:
            return f"{{{ANSWER}}}"
        if choice[1].isdecimal() and int(choice[1]) < len(choices):
            return _literal(choices[int(choice[1])])
    if join := _JOIN.fullmatch(code):
        return _literal(next(group for group in join.groups() if group is not None).join(choices))
    if _NAME.fullmatch(code) and code not in (*LABELS, ANSWER, "answer_choices"):
        return f"{{{code}}}"
    raise Unfit(UNREADABLE)


def read_flan(name: str, pair: Sequence[str], task: TaskData) -> Wording:
    """A wording from a pattern of FLAN: input and target. `{options_}` becomes a list of the task's words.

    Raises:
        Unfit: it is inverted, or not of this form.
    """
    if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
        raise Unfit(UNREADABLE)
    asked, target = pair
    if target.strip() != f"{{{ANSWER}}}":
        raise Unfit(INVERTED)
    words = [task.label_words.get(label, label) for label in task.labels]
    options = "OPTIONS:\n" + "\n".join(f"- {word}" for word in words)
    asked = re.sub(r"(\{hypothesis\})n\b", r"\1\n", asked)  # a slip of the first version of the file
    return _wording(name, asked.replace("{options_}", options), None, task)


def _wording(name: str, asked: str, words: Mapping[str, str] | None, task: TaskData) -> Wording:
    """With the rows' own fields, and the answer behind it."""
    if ANSWER in PLACE.findall(asked):
        raise Unfit(INVERTED)
    text = PLACE.sub(lambda place: f"{{{_field(place[1], task)}}}", asked).strip()
    if not PLACE.search(text):
        raise Unfit(OTHER_FIELDS)
    return Wording(name, Prompt(f"{text} {{{ANSWER}}}"), words)


def _field(name: str, task: TaskData) -> str:
    """A field of the task's rows, by its name or by what other data sets call it."""
    known = _fields(task)
    if name in known:
        return name
    found = next((own for own, others in SAME_NAMES.items() if name in others and own in known), None)
    if found is None:
        raise Unfit(OTHER_FIELDS)
    return found


def _fields(task: TaskData) -> set[str]:
    row = next(iter((*task.train[:1], *task.test[:1])), None)
    texts = ("text", "pair") if row is None or row.pair is not None else ("text",)
    return {*texts, *task.fields[: len(texts)], *(row.parts if row and row.parts else ())}


def _checked(wording: Wording, task: TaskData, name: str) -> Wording:
    """A wording whose words name the labels, each once and in their order.

    Raises:
        Unfit: it lacks a label, or two labels have one word.
        UsageError: a word is the name of another label.
    """
    words = wording.words
    if any(place not in (*_fields(task), ANSWER, FIELDS) for place in PLACE.findall(wording.prompt.example)):
        raise Unfit(OTHER_FIELDS)
    if words is None:
        return wording
    if words.keys() < set(task.labels) or len({words[label].lower() for label in task.labels}) < len(task.labels):
        raise Unfit(OTHER_LABELS)
    names = {known.lower(): label for label in task.labels for known in (label, task.label_words.get(label, label))}
    for label in task.labels:
        if names.get(words[label].lower(), label) != label:
            raise UsageError(
                f"{KEY}: template `{name}`: `{words[label]}` would stand for the label `{label}`, and is the name of "
                f"`{names[words[label].lower()]}`: the file has another order of labels than task {task.name} "
                f"({', '.join(task.labels)}). Write its templates as a YAML file of this project's, with `words`."
            )
    return wording


def _named_apart(wordings: Sequence[Wording]) -> list[Wording]:
    """A name that came before gets a number."""
    seen: Counter[str] = Counter()
    found = []
    for one in wordings:
        seen[one.name] += 1
        name = one.name if seen[one.name] == 1 else f"{one.name} {seen[one.name]}"
        found.append(Wording(name, one.prompt, one.words))
    return found
