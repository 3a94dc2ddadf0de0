"""Aspect-based sentiment analysis: aspect polarity (apc) as classification, the extraction subtasks as tuples.

apc: `text` is the sentence, `pair` the aspect, the target its polarity. Rows of one sentence share their `group`, so
that a draw never puts one aspect of a sentence into train and another into dev. (Where an aspect occurs twice in a
sentence, the file's `$T$` says which occurrence is meant and the sentence and aspect no longer do: about one row in
a hundred of lap14 has a twin of another polarity.)

ae, oe, aoe, aope, uabsa, aste, tasd, asqp, acos: the target is a tuple of tuples in the order of the subset's
`elements`, sorted by where aspect and opinion begin; a sentence without any has the target `()`.
Implicit elements are the string `NULL`, as in the files, and come first. A subtask may take a part of what a file's
tuples hold (`file_elements`), and its rows may be asked for one aspect each (`given`), which is then the row's `pair`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, choice, listed, word
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl, read_text
from peftbench.tasks.sources import Found, Subset, assemble, find_files, resolve_subset
from peftbench.tasks.tuple_formats import FORMATS, IMPLICIT, TupleForm

ASPECT_MARK = "$T$"
TUPLES_MARK = "####"
ALSO_CALLED = {"alsc": "apc", "aesc": "uabsa", "triplet": "aste", "pair": "aope", "quad": "asqp"}
"""Names of subtasks elsewhere -> ours."""
_ELEMENTS = listed(choice("aspect", "category", "polarity", "opinion"), least=1)


@dataclass
class AbsaConfig(TaskConfig):
    """`subtask` and `domain` say the same as `subset`, SUBTASK_DOMAIN."""

    subtask: str | None = None
    domain: str | None = None


def settle(task: dict[str, Any]) -> dict[str, Any]:
    """The task with our name of the subtask in `subset`.

    Raises:
        UsageError: there is no such subtask, or not for the domain.
    """
    subtask, mark, domain = str(task.get("subset")).partition("_")
    subset = f"{ALSO_CALLED.get(subtask.lower(), subtask.lower())}{mark}{domain}"
    known = [tuple(name.split("_", 1)) for name in task.get("subsets") or {} if "_" in name]
    subtasks, name = {s for s, _ in known}, subset.partition("_")[0]
    if mark and subset not in (task.get("subsets") or {}):
        if name not in subtasks:
            raise UsageError(
                f"task.subtask={subtask}: no such subtask. {did_you_mean(subtask, [*subtasks, *ALSO_CALLED])}"
            )
        domains = [d for s, d in known if s == name]
        raise UsageError(f"task.domain={domain}: subtask `{name}` has no such domain. {did_you_mean(domain, domains)}")
    return {**task, "subset": subset}


@adapter(
    config=AbsaConfig,
    settle=settle,
    subset={
        "elements": _ELEMENTS,
        "file_elements": _ELEMENTS,
        "given": choice("aspect"),
        "categories": listed(word, least=1),
        "paper": choice(*FORMATS),
        "instruction": word,
    },
)
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One subtask of one domain."""
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir)
    splits = {split: rows_of(subset, found, split) for split in found.files}
    notes = _note_dev_in_train(splits)
    if "elements" not in subset.options:
        return assemble(cfg, subset, found, splits, notes)
    instruction = subset.options.get("instruction", "")
    return assemble(
        cfg, subset, found, splits, notes, labels=(), label_words={}, instruction=instruction, tuple_form=_form(subset)
    )


def rows_of(subset: Subset, found: Found, split: str) -> list[Row]:
    """The rows of one split; none if it is not there.

    Raises:
        UsageError: a file is damaged.
    """
    return (_tuple_rows if "elements" in subset.options else _polarity_rows)(subset, found, split)


def sentence_key(text: str) -> str:
    """Equal for spellings of one sentence, whose spaces and quotes differ between rows and files: letters and digits
    are compared."""
    return re.sub(r"[\W_]+", "", text).casefold()


def _form(subset: Subset) -> TupleForm:
    """What the subset's tuples hold; their polarities are a closed set, their categories only the usual ones."""
    elements, said = tuple(subset.options["elements"]), subset.options
    closed = {"polarity": subset.label_names} if "polarity" in elements else {}
    usual = {"category": tuple(said["categories"])} if "category" in elements and "categories" in said else {}
    return TupleForm(elements, closed, usual, said.get("paper", "extraction"))


def read_apc(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Three lines a row: the sentence with `$T$` in the aspect's place, the aspect, its polarity."""
    lines = read_text(path).split("\n")
    records = []
    for start in range(0, len(lines), 3):
        row = [line.strip() for line in lines[start : start + 3]]
        if len(row) < 3 or ASPECT_MARK not in row[0] or not row[1]:
            raise UsageError(
                f"{path}, line {start + 1}: three lines a row are expected: a sentence with {ASPECT_MARK}, the aspect, "
                f"its polarity. Found: {' | '.join(row)[:200]}. A line is missing or too many here or above."
            )
        records.append((start + 1, {"sentence": row[0], "aspect": row[1], "polarity": row[2]}))
    return records


def read_tuple_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """A row a line: the sentence, `####`, a Python literal with the list of tuples. Keys as in ACOS's JSON lines."""
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        sentence, mark, literal = line.rpartition(TUPLES_MARK)  # the last mark: a sentence may hold one
        try:
            tuples = ast.literal_eval(literal.strip()) if mark else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            tuples = None
        if not isinstance(tuples, list):
            raise UsageError(
                f"{path}, line {number}: a sentence, {TUPLES_MARK} and a list of tuples are expected. "
                f"Found: {line[:200]}"
            )
        records.append((number, {"text": sentence, "labels": tuples}))
    return records


def _polarity_rows(subset: Subset, found: Found, split: str) -> list[Row]:
    rows: list[Row] = []
    groups: dict[str, str] = {}
    for index, (path, line, record) in enumerate(found.records(split, read_apc)):
        sentence = record["sentence"].replace(ASPECT_MARK, record["aspect"])
        group = groups.setdefault(sentence_key(sentence), f"{split}:s{index}")
        target = subset.label(record["polarity"], path, line)
        rows.append(Row(f"{split}:{index}", sentence, target, pair=record["aspect"], group=group))
    return rows


def _tuple_rows(subset: Subset, found: Found, split: str) -> list[Row]:
    rows: list[Row] = []
    jsonl = any(path.suffix == ".jsonl" for path in found.files[split])
    for index, (path, line, record) in enumerate(found.records(split, read_jsonl if jsonl else read_tuple_lines)):
        try:
            words = record["text"].split(" ")
            tuples = sorted((_tuple(subset, item, words, path, line) for item in record["labels"]), key=_place)
            rows += _asked(subset, f"{split}:{index}", record["text"].strip(), tuples)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                f"{path}, line {line}: not a row of `{subset.name}`, whose tuples hold "
                f"{', '.join(_file_elements(subset))} ({type(error).__name__}: {error})."
            ) from error
    return rows


def _file_elements(subset: Subset) -> Sequence[str]:
    """What the tuples of the files hold, in their order."""
    return subset.options.get("file_elements", subset.options["elements"])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Span:
    """Words, and where in the sentence they begin: -1 for what it does not name."""

    text: str
    start: int


def _tuple(subset: Subset, item: Any, words: Sequence[str], path: Path, line: int) -> dict[str, _Span]:
    """One tuple of a file: word positions become the words, polarity spellings the label name."""
    elements = _file_elements(subset)
    values = [item[element] for element in elements] if isinstance(item, dict) else item
    return {
        element: _Span(subset.label(value, path, line), 0) if element == "polarity" else _words(value, words)
        for element, value in zip(elements, values, strict=True)
    }


def _words(value: Any, words: Sequence[str]) -> _Span:
    if isinstance(value, str):
        value = " ".join(value.split())
        return _Span(value, -1 if value == IMPLICIT else " ".join(words).find(value))
    if not isinstance(value, list) or not value or not all(0 <= position < len(words) for position in value):
        raise ValueError(f"words, or word positions from 0 to {len(words) - 1}, are expected, found {value}")
    return _Span(" ".join(words[position] for position in value), len(" ".join([*words[: value[0]], ""])))


def _place(found: dict[str, _Span]) -> tuple[int, ...]:
    """Where the aspect begins, then where the opinion does."""
    return tuple(found[element].start for element in ("aspect", "opinion") if element in found)


def _asked(subset: Subset, id_: str, text: str, tuples: Sequence[dict[str, _Span]]) -> list[Row]:
    """The rows of a sentence: one, or with `given` one for each value of that element, all of one group."""
    elements, given = subset.options["elements"], subset.options.get("given")
    if given is None:
        return [Row(id_, text, _projected(tuples, elements, subset))]
    values = dict.fromkeys(found[given].text for found in tuples)
    return [
        Row(
            f"{id_}.{number}",
            text,
            _projected([t for t in tuples if t[given].text == value], elements, subset),
            value,
            id_,
        )
        for number, value in enumerate(values)
    ]


def _projected(
    tuples: Sequence[dict[str, _Span]], elements: Sequence[str], subset: Subset
) -> tuple[tuple[str, ...], ...]:
    """The tuples as strings; of a part of their elements each once, as the file has them otherwise."""
    made = (tuple(found[element].text for element in elements) for found in tuples)
    return tuple(dict.fromkeys(made)) if "file_elements" in subset.options else tuple(made)


def _note_dev_in_train(splits: dict[str, list[Row]]) -> list[str]:
    """A dev set that also stands in train (tasd rest15) cannot choose a model."""
    dev, train = splits.get("dev", []), {(row.text, row.pair) for row in splits["train"]}
    shared = sum((row.text, row.pair) in train for row in dev)
    useless = ", so dev says nothing about new rows" if shared == len(dev) else ""
    return [f"dev: {shared} of {len(dev)} rows also stand in train{useless}"] if shared else []
