"""MasakhaNEWS: news topics in sixteen languages (Adelani et al. 2023, arXiv 2304.09972)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from peftbench.config.schema import one_of
from peftbench.config.tasks import adapter, text
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.languages import LanguageConfig, check_source
from peftbench.tasks.readers import read_quoted_tsv, read_text
from peftbench.tasks.sources import Found, Subset, assemble, find_files, resolve_subset, text_of

TEXTS = {"headline": ("headline",), "text": ("text",), "headline_text": ("headline", "text")}
"""`task.text` -> the columns that the model reads, joined by one space as in the paper's fine-tuning runs."""

SPLITS = ("train", "dev", "test")


@dataclass
class MasakhanewsConfig(LanguageConfig):
    """MasakhaNEWS adds the choice of text field."""

    text: str = one_of("headline", "text", "headline_text", default="headline_text")


@adapter(config=MasakhanewsConfig, subset={"language": text}, settle=check_source)
def load(cfg: MasakhanewsConfig, data_dir: Path | None) -> TaskData:
    """One language. Label sets differ between languages and labels travel by name, never by position."""
    subset = resolve_subset(cfg, key="task.lang")
    found = find_files(cfg, subset, data_dir, {split: f"{subset.name}/{split}.tsv" for split in SPLITS})
    label, labels = "category", subset
    if found.source.kind == "hub":
        # the parquet files number the seven labels of all languages, in the order that the YAML repeats
        numbered = enumerate(subset.hub["labels"])
        label = "label"
        labels = replace(subset, labels={str(i): name for i, name in numbered if name in subset.labels})
    else:
        _check_labels_file(subset, found)
    splits = {split: article_rows(split, found, labels, label, cfg.text) for split in SPLITS}
    return assemble(cfg, subset, found, splits)


def article_rows(split: str, found: Found, subset: Subset, label: str, text: str) -> list[Row]:
    """Rows of a split from records with `headline`, `text` and the column that `label` names."""
    columns = (label, "headline", "text")
    records = found.records(split, partial(read_quoted_tsv, require=columns), columns)
    rows = []
    for position, (path, line, record) in enumerate(records):
        texts = {column: text_of(record, column, path, line) for column in TEXTS[text]}
        # the part that is not read is empty, so that the same cloze patterns serve
        parts = {"headline": texts.get("headline", ""), "article": texts.get("text", "")}
        target = subset.label(record[label], path, line)
        rows.append(Row(f"{split}:{position}", " ".join(texts.values()), target, parts=parts))
    return rows


def _check_labels_file(subset: Subset, found: Found) -> None:
    """A `labels.txt` beside the data has to list the labels that we know."""
    path = found.files["train"][0].with_name("labels.txt")
    if found.source.kind != "local" or not path.is_file():
        return
    listed = [label.strip() for label in read_text(path).split("\n") if label.strip()]
    if listed != list(subset.label_names):
        raise UsageError(
            f"{path}: lists {', '.join(listed)}, but the labels of `{subset.name}` are "
            f"{', '.join(subset.label_names)}. Is this the data of another language? "
            "If it is a version with other labels, give them as "
            f"'task.subsets.{subset.name}.labels=[...]'."
        )
