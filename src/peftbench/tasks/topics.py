"""Single-text and pair classification sets that differ only in how their files are laid out.

AG News, Yahoo, IMDB, Amazon, Yelp, the single-sentence sets of LM-BFF (Gao et al. 2021, arXiv 2012.15723) in the split
of PCP (Shi and Lipani 2023, arXiv 2305.01711), citation intents, SNLI. The layouts are data: they stand in the YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import LAYOUT, adapter, listed, section, text, word
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_csv, read_jsonl, read_quoted_tsv, read_unquoted
from peftbench.tasks.sources import Found, Reader, Subset, assemble, find_files, resolve_subset, text_of


@dataclass(frozen=True)
class Layout:
    """How one file holds its rows.

    Attributes:
        columns: the columns of a file without a header; None if the file names them itself.
        text: the columns that make the text, joined by one space.
        pair: the column of the second text, if there is one.
        label: the column of the label.
        first_label: what the first label is called where labels are numbers.
        quoting: "csv", where a field in quotes may hold delimiters and line ends; "none", where a quote is a character
            like any other and a line is a row.
    """

    columns: list[str] | None = None
    text: tuple[str, ...] = ("text",)
    pair: str | None = None
    label: str = "label"
    first_label: int = 0
    quoting: str = "csv"

    def used(self) -> list[str]:
        """The columns that have to be there."""
        return [*self.text, *([self.pair] if self.pair else []), self.label]


SUBSET_KEYS = {
    "layout": section(**dict.fromkeys(("all", "train", "dev", "test"), LAYOUT)),
    "required": listed(text),
    "notes": listed(text),
    "instruction": word,
}
"""Checks of what a subset says of its files."""


@adapter(subset=SUBSET_KEYS)
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One data set. Without a train file, the dev rows are what a few-shot draw has to draw from."""
    subset = resolve_subset(cfg)
    required = subset.options.get("required", [split for split in subset.files if split != "dev"])
    found = find_files(cfg, subset, data_dir, required=required)
    splits, notes = read_splits(subset, found)
    if not splits["train"]:
        splits = {"train": splits["dev"], "dev": [], "test": splits["test"]}
        notes.append("train: no train file is there; its place is taken by the rows of the dev file")
    return assemble(cfg, subset, found, splits, notes, instruction=subset.options.get("instruction", ""))


def read_splits(subset: Subset, found: Found) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each split, as the layout of the files says, and what is to be said of them."""
    notes = list(subset.options.get("notes", ())) if found.source.kind == "local" else []
    splits = {
        split: _rows(split, found, subset, _layout(split, found, subset), notes) for split in ("train", "dev", "test")
    }
    return splits, notes


def _rows(split: str, found: Found, subset: Subset, layout: Layout, notes: list[str]) -> list[Row]:
    if layout.first_label:
        labels = {str(int(raw) + layout.first_label): name for raw, name in subset.labels.items()}
        subset = replace(subset, labels=labels)
    rows, spanning = [], 0
    records = found.records(split, partial(_read, layout=layout), layout.used())
    for position, (path, line, record) in enumerate(records):
        spanning += path.suffix == ".tsv" and any("\n" in str(value) for value in record.values())
        text = " ".join(text_of(record, column, path, line) for column in layout.text)
        pair = text_of(record, layout.pair, path, line) if layout.pair else None
        rows.append(Row(f"{split}:{position}", text, subset.label(record[layout.label], path, line), pair))
    if spanning:
        notes.append(
            f"{split}: {spanning} of {len(rows)} rows have a quoted field over several lines; if quotes are characters "
            f"like any other there, set task.subsets.{subset.name}.layout.all.quoting=none"
        )
    return rows


def _read(path: Path, layout: Layout) -> Any:
    """The records of a file, by the format that its name tells."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if layout.quoting == "none" and suffix in (".tsv", ".csv"):
        return read_unquoted(path, "\t" if suffix == ".tsv" else ",", layout.columns, layout.used())
    readers: Mapping[str, Reader] = {
        ".tsv": partial(read_quoted_tsv, names=layout.columns, require=layout.used()),
        ".csv": partial(read_csv, names=layout.columns, require=layout.used()),
        ".jsonl": partial(read_jsonl, require=layout.used()),
        ".json": partial(read_jsonl, require=layout.used()),
        ".txt": partial(read_jsonl, require=layout.used()),
    }
    if suffix not in readers:
        raise UsageError(f"{path}: no reader for this kind of file. Known: {', '.join(readers)}.")
    return readers[suffix](path)


def _layout(split: str, found: Found, subset: Subset) -> Layout:
    """The layout of a split's file: the hub's, or the common one with what the split does otherwise."""
    if found.source.kind == "hub":
        values = dict(subset.hub.get("layout", {}))
    else:
        layouts = subset.options.get("layout", {})
        values = {**layouts.get("all", {}), **layouts.get(split, {})}
    if "text" in values:
        values["text"] = tuple(values["text"])
    return Layout(**values)
