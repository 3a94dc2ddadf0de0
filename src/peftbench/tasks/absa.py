"""Aspect-based sentiment analysis: aspect polarity (apc) as classification, the tuple subtasks as tuples of strings.

apc: `text` is the sentence, `pair` the aspect, the target its polarity. Rows of one sentence share their `group`, so
that a draw never puts one aspect of a sentence into train and another into dev. (Where an aspect occurs twice in a
sentence, the file's `$T$` says which occurrence is meant and the sentence and aspect no longer do: about one row in
a hundred of lap14 has a twin of another polarity.)

aste, aope, uabsa, tasd, asqp, acos: the target is a tuple of tuples in the order of the subset's `elements`; a
sentence without any has the target `()`. Implicit elements are the string `NULL`, as in the files.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, choice, listed
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl, read_text
from peftbench.tasks.sources import Found, Subset, assemble, find_files, resolve_subset

ASPECT_MARK = "$T$"
TUPLES_MARK = "####"


@adapter(subset={"elements": listed(choice("aspect", "category", "polarity", "opinion"), least=1)})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One subtask of one domain."""
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir)
    if "elements" not in subset.options:
        splits = {split: _polarity_rows(subset, found, split) for split in found.files}
        return assemble(cfg, subset, found, splits, _note_dev_in_train(splits))
    splits = {split: _tuple_rows(subset, found, split) for split in found.files}
    notes = _note_dev_in_train(splits)
    return assemble(cfg, subset, found, splits, notes, labels=(), label_words={})


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
        # one sentence is spelled with other spaces and quotes from row to row: compare letters and digits
        group = groups.setdefault(re.sub(r"[\W_]+", "", sentence).casefold(), f"{split}:s{index}")
        target = subset.label(record["polarity"], path, line)
        rows.append(Row(f"{split}:{index}", sentence, target, pair=record["aspect"], group=group))
    return rows


def _tuple_rows(subset: Subset, found: Found, split: str) -> list[Row]:
    rows = []
    jsonl = any(path.suffix == ".jsonl" for path in found.files[split])
    for index, (path, line, record) in enumerate(found.records(split, read_jsonl if jsonl else read_tuple_lines)):
        try:
            words = record["text"].split(" ")
            target = tuple(_tuple(subset, item, words, path, line) for item in record["labels"])
            rows.append(Row(f"{split}:{index}", record["text"].strip(), target))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                f"{path}, line {line}: not a row of `{subset.name}`, whose tuples hold "
                f"{', '.join(subset.options['elements'])} ({type(error).__name__}: {error})."
            ) from error
    return rows


def _tuple(subset: Subset, item: Any, words: Sequence[str], path: Path, line: int) -> tuple[str, ...]:
    """One tuple as strings: word positions become the words, polarity spellings the label name."""
    elements = subset.options["elements"]
    values = [item[element] for element in elements] if isinstance(item, dict) else item
    return tuple(
        subset.label(value, path, line) if element == "polarity" else _words(value, words)
        for element, value in zip(elements, values, strict=True)
    )


def _words(value: Any, words: Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(0 <= position < len(words) for position in value):
        raise ValueError(f"words, or word positions from 0 to {len(words) - 1}, are expected, found {value}")
    return " ".join(words[position] for position in value)


def _note_dev_in_train(splits: dict[str, list[Row]]) -> list[str]:
    """A dev set that also stands in train (tasd rest15) cannot choose a model."""
    dev, train = splits.get("dev", []), {(row.text, row.pair) for row in splits["train"]}
    shared = sum((row.text, row.pair) in train for row in dev)
    useless = ", so dev says nothing about new rows" if shared == len(dev) else ""
    return [f"dev: {shared} of {len(dev)} rows also stand in train{useless}"] if shared else []
