"""Templates with a blank, and how a document fills it. Free of torch.

Which words fill a blank is told by rules, where FineInstructions has a language model do it (ours, for a small scale).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import log
from pathlib import Path
from typing import Any

import yaml

from peftbench.config.user_files import read_yaml
from peftbench.errors import UsageError, did_you_mean
from peftbench.stages.recipe.instruction_data import PACKAGED, InstructionOptions
from peftbench.tasks.stop_words import STOP_WORDS

KEY = "recipe.templates"
BLANK = re.compile(r"<fi>(.*?)</fi>")
QUOTE = "{quote}"
_NAME = re.compile(r"(?<=[a-z,;)] )[A-Z][\w'&-]*(?: [A-Z][\w'&-]*)*")
"""A run of capitalised words that does not begin the sentence."""
_NUMBER = re.compile(r"(?<![\w.,])[$£€]?\d(?:[\d.,]*\d)?(?:%| (\w+))")
_WORD = re.compile(r"[^\W\d_]{4,}")
OPENING, SENTENCE = 5, 8
"""Words of an opening, and of a sentence that has one."""
RUN = 3


@dataclass(frozen=True)
class Template:
    """One instruction; the keys are explained at the top of `templates.yaml`."""

    ask: str
    blank: str
    answer: str
    about: str
    frame: str = QUOTE


def templates(name: str) -> list[Template]:
    """The packaged ones, or those of a file.

    Raises:
        UsageError: an entry is none; the message names it.
    """
    if name == PACKAGED:
        text = files(__package__).joinpath("templates.yaml").read_text(encoding="utf-8")
        return [_template(f"{KEY}={name}", n, entry) for n, entry in enumerate(yaml.safe_load(text)["templates"])]
    listed = read_yaml(Path(name)).get("templates")
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{KEY}={name}: `templates` has to be a list of entries with {', '.join(_KEYS)}.")
    return [_template(name, number, entry) for number, entry in enumerate(listed)]


def check(options: InstructionOptions) -> None:
    """Raises UsageError if the templates are none."""
    templates(options.templates)


_KEYS = ("ask", "blank", "answer", "about")


def _template(where: str, number: int, entry: Any) -> Template:
    place = f"{where}: templates[{number}]"
    if not isinstance(entry, Mapping) or not all(isinstance(value, str) for value in entry.values()):
        raise UsageError(f"{place}: has to be a mapping of {', '.join(_KEYS)} to texts.")
    known = Template.__dataclass_fields__
    for key in entry:
        if key not in known:
            raise UsageError(f"{place}.{key}: no such key. {did_you_mean(str(key), known)}")
    for key in _KEYS:
        if key not in entry:
            raise UsageError(f"{place}: lacks `{key}`.")
    found = Template(**entry)
    for key, value, choices in (("blank", found.blank, FILL), ("answer", found.answer, QUOTED)):
        if value not in choices:
            raise UsageError(f"{place}.{key}={value}: not a valid choice. {did_you_mean(value, choices)}")
    if len(BLANK.findall(found.ask)) != 1 or found.frame.count(QUOTE) != 1:
        raise UsageError(f"{place}: has to have one <fi>blank</fi> in `ask`, and {QUOTE} once in `frame`.")
    return found


@dataclass(frozen=True)
class Document:
    """A text in its sentences; `rarity`: lower-case word -> how telling it is (inverse document frequency)."""

    id: str
    sentences: Sequence[str]
    rarity: Mapping[str, float]

    @property
    def text(self) -> str:
        """Its sentences, a space between them."""
        return " ".join(self.sentences)


def rarities(documents: Sequence[Sequence[str]]) -> dict[str, float]:
    """log(documents / documents with the word), of the lower-case words of documents in sentences."""
    seen = Counter(word for one in documents for word in {w.lower() for s in one for w in _WORD.findall(s)})
    return {word: log(len(documents) / count) for word, count in seen.items()}


def filled(template: Template, document: Document, place: int) -> tuple[str, str] | None:
    """Instruction and answer from a document, near the sentence at `place`; None if nothing there fits the blank."""
    sentence = document.sentences[place]
    blank = FILL[template.blank](sentence, document)
    if blank is None:
        return None
    quote = QUOTED[template.answer](document, place, blank)
    if quote is None:
        return None
    return BLANK.sub(lambda _: blank, template.ask), template.frame.replace(QUOTE, quote)


def quoted_share(answer: str, text: str) -> float:
    """The share of an answer's words that stand in the text in runs of `RUN` words, as they do in the answer."""
    own, runs = answer.lower().split(), set(_runs(text.lower().split()))
    width = min(RUN, len(own))
    if not width:
        return 0.0
    if width < RUN:
        return float(f" {' '.join(own)} " in f" {' '.join(text.lower().split())} ")
    there = {n + k for n, run in enumerate(_runs(own)) if run in runs for k in range(RUN)}
    return len(there) / len(own)


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[n:] for n in range(RUN)), strict=False)  # type: ignore[return-value]


def _name(sentence: str, _document: Document) -> str | None:
    """The longest run, the first of equal ones; a pronoun or another function word alone is none."""
    runs = [re.sub(r"'s?$", "", run) for run in _NAME.findall(sentence)]
    names = [run for run in runs if len(run) > 2 and run.lower() not in STOP_WORDS]
    return max(names, key=lambda run: len(run.split()), default=None)


def _number(sentence: str, _document: Document) -> str | None:
    """The first number with a percent sign or the word behind it, unless that is a function word."""
    for found in _NUMBER.finditer(sentence):
        if found[1] is None or found[1].lower() not in STOP_WORDS:
            return found[0]
    return None


def _topic(sentence: str, document: Document) -> str | None:
    words = [word for word in _WORD.findall(sentence) if word.lower() not in STOP_WORDS]
    counts = Counter(word.lower() for word in _WORD.findall(document.text))
    return max(words, key=lambda w: counts[w.lower()] * document.rarity.get(w.lower(), 0.0), default=None)


def _opening(sentence: str, _document: Document) -> str | None:
    words = sentence.split()
    return " ".join(words[:OPENING]) if len(words) >= SENTENCE else None


def _sentence(sentence: str, _document: Document) -> str | None:
    return sentence if len(sentence.split()) >= OPENING else None


FILL: Mapping[str, Callable[[str, Document], str | None]] = {
    "name": _name,
    "number": _number,
    "topic": _topic,
    "opening": _opening,
    "sentence": _sentence,
}
"""How a blank is filled: `(sentence, document)` -> the words, or None."""


def _mentions(document: Document, place: int, blank: str) -> str | None:
    others = [n for n, sentence in enumerate(document.sentences) if blank in sentence and n != place]
    return " ".join(document.sentences[n] for n in sorted([place, *others[:1]]))


def _rest(document: Document, place: int, blank: str) -> str | None:
    return document.sentences[place][len(blank) :].strip() or None


def _next(document: Document, place: int, _blank: str) -> str | None:
    return document.sentences[place + 1] if place + 1 < len(document.sentences) else None


QUOTED: Mapping[str, Callable[[Document, int, str], str | None]] = {"mentions": _mentions, "rest": _rest, "next": _next}
"""What an answer quotes: `(document, place of the sentence, blank)` -> the quotation, or None."""
