"""GLUE: nine English sentence and sentence-pair tasks (Wang et al. 2019, arXiv 1804.07461).

The labels of GLUE's test files are hidden, so `TaskData.test` is empty: protocols take dev, or a half of it, as the
test set. MNLI's mismatched dev set is an extra test set. The LAST of a task's labels is the positive class of
`f1_binary` (MRPC: equivalent; QQP: duplicate); `conf/task/glue.yaml` lists the labels in that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter, flag, listed, score, text
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, Target, TaskData
from peftbench.tasks.readers import read_glue_tsv
from peftbench.tasks.sources import Found, Subset, assemble, find_files, resolve_subset

FILES = {"train": "train.tsv", "dev": "dev.tsv"}
MISMATCHED = "mismatched"


@adapter(
    subset={
        "columns": listed(text, least=2, most=3),
        "header": lambda value, where: (listed(text) if isinstance(value, (list, tuple)) else flag)(value, where),
        "score_range": listed(score, least=2, most=2),
    }
)
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """One GLUE task. Spaces at the ends of a text are dropped: SST-2's train phrases end in one, its dev does not."""
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, data_dir, subset.files or FILES, required=("train", "dev"))
    splits = {split: _rows(subset, found, split) for split in found.files}
    extra = {MISMATCHED: splits[MISMATCHED]} if MISMATCHED in splits else {}
    values: dict[str, Any] = {"extra_tests": extra}
    if "score_range" in subset.options:
        values["score_range"] = _score_range(subset)
    return assemble(cfg, subset, found, splits, **values)


def _rows(subset: Subset, found: Found, split: str) -> list[Row]:
    header = subset.options.get("header", True)
    columns = subset.options["columns"]

    def read(path: Path) -> list[tuple[int, dict[str, str]]]:
        return read_glue_tsv(path, header=header, require=columns)

    rows = []
    hub_columns = [*subset.fields[: len(columns) - 1], "label"]  # the hub names texts as the text-to-text input does
    for index, (path, line, record) in enumerate(found.records(split, read, hub_columns)):
        names = hub_columns if path.suffix == ".parquet" else columns
        texts = [str(record[name]).strip() for name in names[:-1]]
        target = _target(subset, record, names[-1], path, line)
        rows.append(Row(f"{split}:{index}", texts[0], target, pair=texts[1] if len(texts) > 1 else None))
    return rows


def _target(subset: Subset, record: Mapping[str, Any], column: str, path: Path, line: int) -> Target:
    if "score_range" not in subset.options:
        return subset.label(record[column], path, line)
    low, high = _score_range(subset)
    try:
        score = float(record[column])
    except ValueError:
        score = math.nan
    if not low <= score <= high:
        raise UsageError(
            f"{path}, line {line}: the score `{record[column]}` in column `{column}` is not a number "
            f"from {low:g} to {high:g}."
        )
    return score


def _score_range(subset: Subset) -> tuple[float, float]:
    low, high = subset.options["score_range"]
    return float(low), float(high)
