"""Words with tags, one a line, an empty line between sentences: MasakhaNER 2.0 (Adelani et al. 2022, arXiv 2210.12391),
Turkish WikiNER. Tags are IOB2."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.config.tasks import adapter, choice, text
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.languages import LanguageConfig, check_source
from peftbench.tasks.problems.tags import OUTSIDE, orphans
from peftbench.tasks.readers import read_text
from peftbench.tasks.sources import Found, Subset, assemble, find_files, resolve_subset

Lines = list[tuple[int, str, str]]
"""(line, word, tag)"""


@adapter(config=LanguageConfig, subset={"scheme": choice("iob2"), "language": text}, settle=check_source)
def load(cfg: LanguageConfig, data_dir: Path | None) -> TaskData:
    """One language; a row is a sentence, its text the words with a space between them, its target a tag a word."""
    subset = resolve_subset(cfg, key="task.lang")
    found = find_files(cfg, subset, data_dir)
    splits = {split: _rows(split, found, subset) for split in found.files}
    return assemble(cfg, subset, found, splits, _note_orphans(splits), label_words={})


def read_conll(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """A record a sentence, with `lines`: (line, word, tag) of each word.

    Raises:
        UsageError: a line is not a word and its tag, with a space or tab between.
    """
    sentences: list[tuple[int, dict[str, Any]]] = []
    begun: Lines = []
    for number, line in enumerate([*read_text(path).split("\n"), ""], start=1):
        fields = re.split("[ \t]+", line.strip(" \t\r"))
        if fields == [""]:
            sentences += [(begun[0][0], {"lines": begun})] if begun else []
            begun = []
            continue
        if len(fields) != 2:
            raise UsageError(
                f"{path}, line {number}: a word and its tag are expected, with a space or tab between them; found "
                f"{len(fields)} fields: {line.strip()[:60]}."
            )
        begun.append((number, fields[0], fields[1]))
    return sentences


def _rows(split: str, found: Found, subset: Subset) -> list[Row]:
    rows = []
    for position, (path, _, record) in enumerate(found.records(split, read_conll)):
        lines: Lines = record["lines"]
        target = tuple(_tag(tag, subset, path, line) for line, _, tag in lines)
        rows.append(Row(f"{split}:{position}", " ".join(word for _, word, _ in lines), target))
    return rows


def _tag(tag: str, subset: Subset, path: Path, line: int) -> str:
    """The tag with the name of its entity type."""
    place, hyphen, raw = tag.partition("-")
    if tag == OUTSIDE:
        return tag
    if place not in ("B", "I") or not hyphen:
        raise UsageError(f"{path}, line {line}: the tag `{tag}` is no IOB2 tag: {OUTSIDE}, B-TYPE or I-TYPE.")
    return f"{place}-{subset.label(raw, path, line)}"


def _note_orphans(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    """An `I-` that continues nothing stays as the file has it."""
    counts = {split: sum(map(orphans, (row.target for row in rows))) for split, rows in splits.items()}  # type: ignore[arg-type]
    return [
        f"{split}: entities that begin with I-: {count}; none to strict IOB2, f1_entities_lenient counts them"
        for split, count in counts.items()
        if count
    ]
