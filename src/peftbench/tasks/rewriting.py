"""Sentences and other sentences for them, line by line: corrections (JFLEG), simplifications (ASSET).

A file of sources and several of references, a sentence a line, in the same order. Lines end at "\\n" alone; spaces
around a sentence are dropped (JFLEG's dev lines end in one), those within it stay as they are (ASSET has double ones).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from peftbench.config.schema import TaskConfig, number
from peftbench.config.tasks import adapter, by_split, whole, word
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_text
from peftbench.tasks.sources import Subset, assemble, find_files, resolve_subset

SPLITS = ("train", "test")


@dataclass
class RewritingConfig(TaskConfig):
    """`train_references`: how many of a sentence's references are learnt, each as a row of its own."""

    train_references: int = number(1, ge=1)


@adapter(config=RewritingConfig, subset={"references": whole, "reference_files": by_split(word), "instruction": word})
def load(cfg: RewritingConfig, data_dir: Path | None) -> TaskData:
    """One collection; the target of a row is all references of its sentence.

    Raises:
        UsageError: there are fewer references than are to be learnt, or a file has another number of lines than its
            sources, or an empty one.
    """
    subset = resolve_subset(cfg)
    count = subset.options["references"]
    if cfg.train_references > count:
        raise UsageError(f"task.train_references={cfg.train_references}: a sentence has {count} references.")
    found = find_files(cfg, subset, data_dir, files := _files(subset), required=list(files))
    sources = {split: _lines(found.files[split][0]) for split in SPLITS}
    notes = [f"train: {cfg.train_references} of {count} references a sentence are learnt, each as a row"]
    splits = {split: list(_rows(split, sources[split], _references(split, found.files, count, sources[split])))
              for split in SPLITS}  # fmt: skip
    splits["train"] = [turned for row in splits["train"] for turned in _turned(row, cfg.train_references)]
    return assemble(
        cfg, subset, found, splits, notes if cfg.train_references > 1 else (), labels=(), label_words={},
        instruction=subset.options.get("instruction", ""),
    )  # fmt: skip


def _files(subset: Subset) -> dict[str, str]:
    """Sources by split, references by split and number."""
    names = {split: subset.files[split][0] for split in SPLITS}
    for split in SPLITS:
        pattern = subset.options["reference_files"][split]
        names |= {f"{split} {n}": pattern.format(n=n) for n in range(subset.options["references"])}
    return names


def _lines(path: Path) -> list[str]:
    lines = [line.strip(" \r") for line in read_text(path).split("\n")]
    if "" in lines:
        raise UsageError(f"{path}, line {lines.index('') + 1}: empty, where a sentence is expected.")
    return lines


def _references(
    split: str, files: Mapping[str, tuple[Path, ...]], count: int, sources: list[str]
) -> Iterator[tuple[str, ...]]:
    """The references of each sentence."""
    columns = []
    for n in range(count):
        path = files[f"{split} {n}"][0]
        columns.append(_lines(path))
        if len(columns[-1]) != len(sources):
            raise UsageError(
                f"{path}: {len(columns[-1])} lines for the {len(sources)} of {files[split][0]}. Lines belong together "
                "by their numbers; fetch both again."
            )
    return zip(*columns, strict=True)


def _rows(split: str, sources: list[str], references: Iterator[tuple[str, ...]]) -> Iterator[Row]:
    for index, (text, target) in enumerate(zip(sources, references, strict=True)):
        yield Row(f"{split}:{index}", text, target)


def _turned(row: Row, learnt: int) -> list[Row]:
    """The row once for each reference that is learnt, which then stands first; all of one group."""
    target = row.target
    assert isinstance(target, tuple)
    if learnt == 1:
        return [row]
    return [Row(f"{row.id}.{n}", row.text, (*target[n:], *target[:n]), group=row.id) for n in range(learnt)]
