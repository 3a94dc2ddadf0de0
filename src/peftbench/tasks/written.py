"""Texts and the text that answers each, as JSON lines: generative tasks of TRACE (Wang et al., arXiv 2310.06762)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, section, text, whole, word
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl
from peftbench.tasks.sources import Found, assemble, find_files, resolve_subset, text_of

SPLITS = ("train", "dev", "test")


@adapter(subset={"references": whole, "columns": section(text=text, answer=text), "instruction": word})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One collection; the target of a row is its only reference. `columns` says what the files call text and answer."""
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir)
    columns = subset.options["columns"]
    splits = {split: list(_rows(found, split, columns["text"], columns["answer"])) for split in SPLITS}
    instruction = subset.options.get("instruction", "")
    return assemble(cfg, subset, found, splits, labels=(), label_words={}, instruction=instruction)


def _rows(found: Found, split: str, shown: str, answer: str) -> Iterator[Row]:
    columns = (shown, answer)
    for place, (path, line, record) in enumerate(found.records(split, partial(read_jsonl, require=columns), columns)):
        asked, wanted = (text_of(record, column, path, line).strip() for column in columns)
        if not asked or not wanted:
            raise UsageError(f"{path}, line {line}: `{shown if not asked else answer}` is empty.")
        yield Row(f"{split}:{place}", asked, (wanted,))
