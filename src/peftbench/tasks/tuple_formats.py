"""Tuples as text and back: one format for all subtasks, and those of papers.

A reader never invents. A text that is not in the format says nothing (None: invalid). A tuple in it that has another
number of elements, an empty one, or a word outside the closed set of an element (a polarity that is none) is left out;
so is one in a paper's format whose elements cannot be told apart because one of them holds the separator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

IMPLICIT = "NULL"
"""What stands for an aspect or opinion that the text does not name."""

Tuples = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TupleForm:
    """What the tuples of a task hold.

    Attributes:
        elements: of a tuple, in their order.
        closed: element -> the only values that it may have.
        usual: element -> values that it mostly has, by which a reading is chosen where a text has several.
        paper: the format of the paper that the data are from, a key of `FORMATS`.
    """

    elements: tuple[str, ...] = ()
    closed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    usual: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paper: str = "extraction"

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> TupleForm:
        """From JSON, where tuples are lists."""
        sets = {k: {name: tuple(v) for name, v in plain[k].items()} for k in ("closed", "usual") if k in plain}
        return cls(**{**plain, **sets, "elements": tuple(plain.get("elements", ()))})

    def made(self, values: Sequence[Any]) -> tuple[str, ...] | None:
        """A tuple of these values, None if they make none."""
        if len(values) != len(self.elements) or not all(isinstance(value, str) for value in values):
            return None
        found = tuple(map(self._value, self.elements, values))
        return found if all(found) else None  # type: ignore[return-value]

    def is_usual(self, values: Sequence[str]) -> bool:
        """Whether no value is an unusual one."""
        found = zip(self.elements, values, strict=True)
        return all(value in self.usual.get(element, (value,)) for element, value in found)

    def _value(self, element: str, text: str) -> str | None:
        """One space between words; of a closed set the value that it is but for case; None if it is empty or none."""
        text = " ".join(text.split())
        return {v.lower(): v for v in self.closed[element]}.get(text.lower()) if element in self.closed else text


@dataclass(frozen=True)
class Format:
    """A way to write tuples.

    Attributes:
        write: (tuples, form) -> text.
        read: (text, form) -> tuples, None if the text is not in this format.
        rule: form -> what may be written, as a terminal of Lark in which SPAN is any words of the text that stand
            together; see `grammar_of`.
        within: a word of the text -> as it stands in what is written.
    """

    write: Callable[[Sequence[Sequence[str]], TupleForm], str]
    read: Callable[[str, TupleForm], Tuples | None]
    rule: Callable[[TupleForm], str]
    within: Callable[[str], str] = str


def write_json(tuples: Sequence[Sequence[str]], form: TupleForm) -> str:
    """`[["battery life", "positive"]]`; with one element a tuple, `["battery life", "screen"]`."""
    plain = [list(t) if len(form.elements) > 1 else t[0] for t in tuples]
    return json.dumps(plain, ensure_ascii=False)


def read_json(text: str, form: TupleForm) -> Tuples | None:
    """The first list in the text, whatever stands around it. Of JSON's escapes only those of quotes and backslashes
    are read: a stray backslash would make other letters."""
    start = text.find("[")
    try:
        items, end = json.JSONDecoder().raw_decode(text, start) if start >= 0 else (None, 0)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or re.search(r'\\[^"\\]', re.sub(r'\\["\\]', "", text[start:end])):
        return None
    single = len(form.elements) == 1
    values = [[item] if single and isinstance(item, str) else item for item in items]
    return _all_made((v for v in values if isinstance(v, list)), form)


def escaped(text: str) -> str:
    """A text as it stands between JSON's quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def json_rule(form: TupleForm) -> str:
    """What `write_json` writes."""
    quoted = [f'"\\"" {_value(element, form, escaped)} "\\""' for element in form.elements]
    item = ' ", " '.join(quoted)
    return _list("[", item if len(quoted) == 1 else f'"[" {item} "]"', ", ", "]")


def write_extraction(tuples: Sequence[Sequence[str]], form: TupleForm) -> str:
    """`(battery life, good, positive); (screen, dim, negative)`, `None` for none: the extraction style of GAS (Zhang et
    al., ACL 2021)."""
    return "; ".join(f"({', '.join(t)})" for t in tuples) or "None"


def extraction_rule(form: TupleForm) -> str:
    """What `write_extraction` writes."""
    item = ' ", " '.join(_value(element, form) for element in form.elements)
    return f'"None" | ("(" {item} ")") ("; (" {item} ")")*'


def read_extraction(text: str, form: TupleForm) -> Tuples | None:
    """What `write_extraction` writes. A comma with a space in front belongs to its element, since the texts are split
    into words so; any other may, and decides nothing as long as one reading alone fits the closed sets."""
    text = text.strip()
    if text.rstrip(".").lower() == "none":
        return ()
    if not (text.startswith("(") and text.endswith(")")):
        return None
    return _all_made((_cut(part, form) for part in re.split(r"\)\s*;\s*\(", text[1:-1])), form)


def _cut(text: str, form: TupleForm) -> list[str]:
    """The elements of one tuple; none where there are several readings, or none."""
    count = len(form.elements)
    parts = re.split(r"(?<! ), ", text)
    cuts = combinations(range(1, len(parts)), count - 1)
    spans = (zip((0, *at), (*at, len(parts)), strict=True) for at in cuts) if len(parts) <= count + 8 else ()
    readings = ([", ".join(parts[a:b]) for a, b in span] for span in spans)
    fitting = [reading for reading in readings if form.made(reading) is not None]
    if len(fitting) > 1:
        fitting = [reading for reading in fitting if form.is_usual(reading)]
    return fitting[0] if len(fitting) == 1 else []


OPINION_WORDS = {"positive": "great", "neutral": "ok", "negative": "bad"}
PRONOUN = "it"
SEPARATOR = " [SSEP] "


def write_paraphrase(tuples: Sequence[Sequence[str]], form: TupleForm) -> str:
    """`food quality is great because pizza is delicious [SSEP] ...`: Paraphrase (Zhang et al., EMNLP 2021). An implicit
    aspect is `it`."""
    return SEPARATOR.join(_sentence(dict(zip(form.elements, t, strict=True))) for t in tuples)


def _sentence(found: Mapping[str, str]) -> str:
    aspect = PRONOUN if found["aspect"] == IMPLICIT else found["aspect"]
    return f"{found['category']} is {OPINION_WORDS[found['polarity']]} because {aspect} is {found['opinion']}"


def paraphrase_rule(form: TupleForm) -> str:
    """What `write_paraphrase` writes."""
    words = _either(OPINION_WORDS.values())
    category, opinion = _value("category", form), _value("opinion", form)
    item = f'{category} " is " {words} " because " (SPAN | "{PRONOUN}") " is " {opinion}'
    return f"({item}) ({json.dumps(SEPARATOR)} {item})*"


def read_paraphrase(text: str, form: TupleForm) -> Tuples | None:
    """What `write_paraphrase` writes. The first `is` behind `because` ends the aspect."""
    sentence = re.compile(rf"(.+?) is ({'|'.join(OPINION_WORDS.values())}) because (.+?) is (.+)", re.DOTALL)
    polarity = {word: name for name, word in OPINION_WORDS.items()}
    found = [sentence.fullmatch(part.strip()) for part in text.split(SEPARATOR.strip())]
    if not any(found):
        return None
    return _all_made((_paraphrased(m, polarity, form) for m in found if m), form)


def _paraphrased(match: re.Match[str], polarity: Mapping[str, str], form: TupleForm) -> list[str]:
    category, word, aspect, opinion = match.groups()
    said = {
        "category": category,
        "polarity": polarity[word],
        "aspect": IMPLICIT if aspect.strip() == PRONOUN else aspect,
        "opinion": opinion,
    }
    return [said[element] for element in form.elements]


def _all_made(values: Iterator[list[Any]] | Any, form: TupleForm) -> Tuples:
    return tuple(made for value in values if (made := form.made(value)) is not None)


def _value(element: str, form: TupleForm, within: Callable[[str], str] = str) -> str:
    """What an element may be: of a closed set, of the categories that there are, or words of the text. Forms with
    categories have implicit aspects and opinions."""
    if known := form.closed.get(element, form.usual.get(element)):
        return _either(map(within, known))
    if element == "category":
        return "OTHER"
    return f'(SPAN | "{IMPLICIT}")' if "category" in form.elements else "SPAN"


def _either(texts: Iterable[str]) -> str:
    return f"({' | '.join(json.dumps(text, ensure_ascii=False) for text in texts)})"


def _list(begin: str, item: str, between: str, end: str) -> str:
    begin, between, end = (json.dumps(text) for text in (begin, between, end))
    return f"{begin} (({item}) ({between} {item})*)? {end}"


FORMATS = {
    "json": Format(write_json, read_json, json_rule, escaped),
    "extraction": Format(write_extraction, read_extraction, extraction_rule),
    "paraphrase": Format(write_paraphrase, read_paraphrase, paraphrase_rule),
}


def grammar_of(style: str, form: TupleForm, text: str, space: str = "") -> str:
    """A grammar of the answers that may be given for a text, in llguidance's Lark: tuples in the format `style`, whose
    aspects and opinions are words of the text that stand together (or implicit, in forms with categories), whose
    polarities are those of the form, and whose categories are those that there are, where the form knows them.

    Args:
        space: what stands in front of an answer; without it a space may, as some tokenizers begin a text with one.
    """
    chosen = format_of(style, form)
    words = [part for word in text.split() for part in (" ", chosen.within(word))][1:]
    lines = [
        "start: ANSWER",
        "SPAN: /[^ ]([^\\n]*[^ ])?/ & WORDS",
        f'WORDS: %regex {{"substring_chunks": {json.dumps(words)}}}',
        'OTHER: /[^"\\\\,;()\\[\\]\\n]+/',
        f"ANSWER: {json.dumps(space or ' ')}{'' if space else '?'} ({chosen.rule(form)})",
    ]
    return "\n".join(lines) + "\n"


def format_of(style: str, form: TupleForm) -> Format:
    """What `method.formulation.answers` means: `words` is one format for every task, `paper` that of the paper."""
    return FORMATS["json" if style == "words" else form.paper]
