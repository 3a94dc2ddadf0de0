"""Answers as places in the row's text, so that what a text copies need not be written again.

After Kaneko and Okazaki (EMNLP 2023, arXiv 2305.11862): a rewritten text is its edits `(start, end, words)`. The paper
released no code; what is our reading of it or our own choice: places count the words between single spaces, from 0;
edits come from a plain word-level Levenshtein alignment (the paper's is weighted by linguistic features); the spelling
below, and the same idea for the tuples of extraction tasks.

    source    The situation are change .        source    The battery life is great
    target    The situation has changed .       target    [["battery life", "positive"]]
    written   2 4 has changed                   written   1 3, positive

Edits are joined by `, `, one that deletes has `NONE` for its words, a text that stays as it is is `none`. Tuples are
joined by `; `, their elements by `, `, and none at all is `none`. A reader never invents: see `read_edits` and
`read_places`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from peftbench.tasks.problems.tags import words
from peftbench.tasks.tuple_formats import IMPLICIT, TupleForm, Tuples

NOTHING, DELETED = "none", "NONE"
ENDS = " \n\r\t"
IN_TEXT = ("aspect", "opinion")
"""Elements of tuples that are words of the text; others are named by the task."""
_NUMBER = re.compile(r"[0-9]{1,6}")
_EDIT = re.compile(rf"({_NUMBER.pattern}) ({_NUMBER.pattern}) (.+)", re.DOTALL)
_NEXT_EDIT = re.compile(rf", (?={_NUMBER.pattern} {_NUMBER.pattern}(?: |$))")
_ELEMENT = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^,;"]*?)\s*([,;]|$)')
_PLACE = re.compile(rf"({_NUMBER.pattern}) ({_NUMBER.pattern})")


class Edit(NamedTuple):
    """Words `start` to `end` (not included) of a text give way to `words`; none is a deletion, `start == end` an
    insertion."""

    start: int
    end: int
    words: tuple[str, ...]


def edits(source: Sequence[str], target: Sequence[str]) -> list[Edit]:
    """The fewest words inserted, deleted and exchanged (Levenshtein) that make `target` of `source`; neighbours are one
    edit. Where there are several ways, words are rather exchanged than left out, and rather left out than put in."""
    left = _distances(source, target)
    found: list[Edit] = []
    i = j = 0
    while i < len(source) or j < len(target):
        here = left[i][j]
        if i < len(source) and j < len(target) and source[i] == target[j] and here == left[i + 1][j + 1]:
            i, j = i + 1, j + 1
            continue
        start, begun = i, j
        if i < len(source) and j < len(target) and here == left[i + 1][j + 1] + 1:
            i, j = i + 1, j + 1
        elif i < len(source) and here == left[i + 1][j] + 1:
            i += 1
        else:
            j += 1
        edit = Edit(start, i, tuple(target[begun:j]))
        if found and found[-1].end == edit.start:
            edit = Edit(found[-1].start, edit.end, found.pop().words + edit.words)
        found.append(edit)
    return found


def _distances(source: Sequence[str], target: Sequence[str]) -> list[list[int]]:
    """[i][j]: the distance of what follows the first i and j words."""
    rows = [list(range(len(target), -1, -1))]
    for i in range(len(source) - 1, -1, -1):
        below, row = rows[-1], [len(source) - i]
        for j in range(len(target) - 1, -1, -1):
            same = source[i] == target[j]
            row.append(below[j + 1] if same else 1 + min(below[j + 1], below[j], row[-1]))
        rows.append(row[::-1])
    return rows[::-1]


def applied(source: Sequence[str], made: Sequence[Edit]) -> list[str]:
    """The words after edits that do not overlap, whatever their order."""
    found = list(source)
    for start, end, new in sorted(made, reverse=True):
        found[start:end] = new
    return found


def write_edits(source: str, target: str) -> str:
    """`2 4 has changed, 5 5 .`: what makes `target` of `source`; a backslash in front of a word says that the word is
    meant as it stands, where it could be read otherwise."""
    found = edits(words(source), words(target))
    return ", ".join(f"{e.start} {e.end} {' '.join(_escaped(e.words)) or DELETED}" for e in found) or NOTHING


def _escaped(new: Sequence[str]) -> list[str]:
    def told(position: int) -> str:
        word, before = new[position], new[position - 1] if position else ""
        two = all(_NUMBER.fullmatch(w) for w in new[position : position + 2]) and position + 1 < len(new)
        unclear = word in ("", DELETED) or word.startswith("\\") or (before.endswith(",") and two)
        return f"\\{word}" if unclear else word

    return [told(position) for position in range(len(new))]


def read_edits(source: str, text: str) -> tuple[str | None, int]:
    """What `write_edits` says of `source`, and how many edits were left out: those whose place is not there, without
    words, or that overlap an earlier one. None if the text is not in the format, or nothing is left of its edits."""
    text = text.strip(ENDS)
    if text.rstrip(".").lower() == NOTHING:
        return source, 0
    old = words(source)
    found = [_EDIT.fullmatch(piece) for piece in _NEXT_EDIT.split(text)]
    if found[0] is None:
        return None, 0
    kept: list[Edit] = []
    for match in filter(None, found):
        edit = Edit(int(match[1]), int(match[2]), _unescaped(match[3]))
        if edit.start <= edit.end <= len(old) and not any(_overlap(edit, other) for other in kept):
            kept.append(edit)
    new = " ".join(applied(old, kept))
    return (new if kept and new.strip() else None), len(found) - len(kept)


def _unescaped(text: str) -> tuple[str, ...]:
    return () if text == DELETED else tuple(word.removeprefix("\\") for word in words(text))


def _overlap(a: Edit, b: Edit) -> bool:
    """Whether two edits change the same words, insert at the same place, or one inserts inside the other."""
    return (a.start < b.end and b.start < a.end) or a[:2] == b[:2]


def write_places(source: str, tuples: Sequence[Sequence[str]], form: TupleForm) -> str:
    """`1 3, positive; 7 8, negative`: for words of the text the place where they first stand; what it does not have (a
    spelling of the annotators) is written out in quotes, other elements without them."""
    old = words(source)
    told = (", ".join(_told(*pair, old) for pair in zip(form.elements, t, strict=True)) for t in tuples)
    return "; ".join(told) or NOTHING


def _told(element: str, value: str, old: Sequence[str]) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    if element not in IN_TEXT or value == IMPLICIT:
        return value if re.fullmatch(r'[^,;"]+', value) and value.strip() == value else quoted
    new = words(value)
    places = (n for n in range(len(old) - len(new) + 1) if old[n : n + len(new)] == new)
    start = next(places, None)
    return quoted if start is None else f"{start} {start + len(new)}"


def read_places(source: str, text: str, form: TupleForm) -> tuple[Tuples | None, int]:
    """The tuples that `write_places` says, and how many were left out: those with another number of elements, a place
    that is not there, words of the text without place or quotes, or a value outside an element's closed set. None if
    the text is not in the format, or no tuple is left."""
    text = text.strip(ENDS)
    if text.rstrip(".").lower() == NOTHING:
        return (), 0
    told = _split(text)
    if told is None:
        return None, 0
    old = words(source)
    read = [_read_tuple(t, old, form) for t in told]
    found = tuple(t for t in read if t is not None)
    return found or None, len(read) - len(found)


def _split(text: str) -> list[list[str]] | None:
    """The elements of each tuple as they are written; None for a text that is no such list."""
    found: list[list[str]] = [[]]
    position = 0
    while (match := _ELEMENT.match(text, position)) is not None:
        found[-1].append(match[1])
        position = match.end()
        if not match[2]:
            return found if any(map(any, found)) else None
        found += [[]] if match[2] == ";" else []
    return None


def _read_tuple(told: Sequence[str], old: Sequence[str], form: TupleForm) -> tuple[str, ...] | None:
    if len(told) != len(form.elements):
        return None
    values = [_read_element(*pair, old) for pair in zip(form.elements, told, strict=True)]
    return None if None in values else form.made(values)


def _read_element(element: str, text: str, old: Sequence[str]) -> str | None:
    """What is written out, in quotes where it is of the text; else the words at a place."""
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            return None
    if element not in IN_TEXT or text == IMPLICIT:
        return text
    place = _PLACE.fullmatch(text)
    start, end = (int(place[1]), int(place[2])) if place else (0, 0)
    return " ".join(old[start:end]) if start < end <= len(old) else None


def numbered(text: str) -> str:
    """`0 The 1 situation 2 are`: each word behind its place."""
    return " ".join(f"{place} {word}" for place, word in enumerate(words(text)))
