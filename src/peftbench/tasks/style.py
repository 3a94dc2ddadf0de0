"""Texts to go on with in one style: the opening of a passage is given, its continuation is the reference.

A file of running text, whose paragraphs are broken into lines, or of one text a line. The last tenth of the passages is
test, so that a part is held out of models that count or learn the style.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, choice, text, whole
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_text
from peftbench.tasks.sources import assemble, find_files, resolve_subset

TEST_SHARE = 10
"""One in so many passages is test, those at the end."""


@adapter(subset={"references": text, "texts": choice("paragraphs", "lines"), "opening": whole, "continuation": whole})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """Passages of `opening` + `continuation` words, one behind the other within a paragraph or line; what is left at
    the end of one and is no longer than an opening is left out.

    Raises:
        UsageError: the file has too few passages.
    """
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir, required=["train"])
    path, own = found.files["train"][0], subset.options
    passages = [
        words
        for part in _parts(read_text(path), own["texts"])
        for words in _passages(part.split(), own["opening"] + own["continuation"], own["opening"])
    ]
    first = len(passages) - len(passages) // TEST_SHARE
    if first == len(passages):
        raise UsageError(f"{path}: {len(passages)} passages are too few to hold some out.")
    rows = [
        Row(f"{'test' if n >= first else 'train'}:{n}", " ".join(words[: own["opening"]]),
            (" ".join(words[own["opening"] :]),))
        for n, words in enumerate(passages)
    ]  # fmt: skip
    return assemble(cfg, subset, found, {"train": rows[:first], "test": rows[first:]}, labels=(), label_words={})


def _parts(content: str, texts: str) -> list[str]:
    """Paragraphs, between empty lines, or lines."""
    lines = content.replace("\r", "").split("\n")
    if texts == "lines":
        return lines
    return "\n".join(line.strip() for line in lines).split("\n\n")


def _passages(words: list[str], size: int, opening: int) -> Iterator[list[str]]:
    for start in range(0, len(words), size):
        if len(passage := words[start : start + size]) > opening:
            yield passage
