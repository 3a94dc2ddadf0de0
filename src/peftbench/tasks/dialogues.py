"""Conversations with several possible replies (Mai and Carson-Berndsen, arXiv 2412.03343)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, flag, text, whole
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl
from peftbench.tasks.sources import Found, assemble, find_files, resolve_subset, text_of

KEYS = ("context", "candidates")


@adapter(subset={"clusters": flag, "instruction": text, "words": whole})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """A row is a conversation; its target are the replies that are known, each a cluster of its own."""
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir)
    rows = {split: _rows(found, split, subset.options["words"]) for split in found.files}
    return assemble(cfg, subset, found, rows, label_words={}, instruction=subset.options["instruction"])


def _rows(found: Found, split: str, words: int) -> list[Row]:
    rows = []
    for number, (path, line, record) in enumerate(found.records(split, partial(read_jsonl, require=KEYS), KEYS)):
        turns = [turn.strip() for turn in text_of(record, "context", path, line).split("\n") if turn.strip()]
        replies = record["candidates"]
        if not turns or not isinstance(replies, Sequence) or not replies or not all(
            isinstance(reply, str) and reply.strip() for reply in replies
        ):  # fmt: skip
            raise UsageError(f"{path}, line {line}: a `context` with turns and a list of `candidates` are expected.")
        rows.append(Row(f"{split}:{number}", spoken(turns, words), tuple((1, (reply.strip(),)) for reply in replies)))
    return rows


def spoken(turns: Sequence[str], words: int) -> str:
    """The last turns, with names: the last is person A's, whom person B answers. Turns from the first on are left out
    until there are fewer than so many words and punctuation marks; one is kept.

    >>> print(spoken(["Hello!", "Hi. And you are?"], 300))
    Person B: Hello!
    Person A: Hi. And you are?
    """
    named = [f"Person {'AB'[place % 2]}: {turn}" for place, turn in enumerate(reversed(turns))]
    kept = next(
        (count for count in range(len(named), 1, -1) if len(_WORD.findall("\n".join(named[:count]))) < words), 1
    )
    return "\n".join(reversed(named[:kept]))


_WORD = re.compile(r"\w+|[^\w\s]")
