"""Unit tests for Java methods, one software project after the other as the person that a model is made for.

One JSON lines file a project; its column `split` says which rows are train, dev and test, so that no focal method
stands in two of them. The model is shown the method in its class, as Tufano et al. (arXiv 2009.05617) have it with the
class's name and nothing more of it. Of the test only what is to be written is used: neither its name nor its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from peftbench.config.schema import TaskConfig, number, one_of, transfer_name
from peftbench.config.tasks import adapter, text, word
from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.readers import read_jsonl
from peftbench.tasks.sources import Found, assemble, find_files, resolve_subset, text_of

SPLITS = ("train", "dev", "test")
COLUMNS = ("focal_class", "focal_method", "test", "split")
OTHERS = "others"
OTHERS_SEED = 13


@dataclass
class CodeTestsConfig(TaskConfig):
    """`project`: whose test rows are asked; `train_on`: whose rows are trained on; `other_rows`: how many test rows of
    the other projects are asked besides."""

    project: str = ""
    train_on: str = one_of("project", OTHERS, default="project")
    other_rows: int = number(0, ge=0)

    @property
    def place(self) -> str:
        return self.subset if self.train_on == "project" else transfer_name(OTHERS, self.subset)


@adapter(config=CodeTestsConfig, subset={"code": text, "instruction": word})
def load(cfg: CodeTestsConfig, data_dir: Path | None) -> TaskData:
    """The rows of one project, with those of the others for train and dev where it is they who are trained on."""
    subset = resolve_subset(cfg, key="task.project")
    names = list(cfg.subsets)
    found = find_files(cfg, subset, data_dir, {name: f"{name}.jsonl" for name in names}, required=names)
    every = {name: list(_rows(found, name)) for name in names}
    others = [name for name in names if name != subset.name]
    trained = [subset.name] if cfg.train_on == "project" else others
    splits = {split: [row for name in trained for row in _of(every[name], split)] for split in SPLITS[:2]}
    splits["test"] = _of(every[subset.name], "test")
    asked = _sample([row for name in others for row in _of(every[name], "test")], cfg.other_rows)
    if not splits["test"]:
        raise UsageError(f"task.project={subset.name}: {found.files[subset.name][0]} has no row whose split is test.")
    return assemble(
        cfg, replace(subset, name=cfg.place), found, splits, labels=(), label_words={},
        instruction=subset.options.get("instruction", ""), extra_tests={OTHERS: asked} if asked else {},
    )  # fmt: skip


def _of(rows: Sequence[Row], split: str) -> list[Row]:
    return [row for row in rows if row.id.startswith(f"{split}:")]


def _sample(rows: Sequence[Row], count: int) -> list[Row]:
    """At most so many, always the same ones, in their order."""
    chosen = np.random.RandomState(OTHERS_SEED).permutation(len(rows))[:count]
    return [rows[place] for place in sorted(chosen)]


def _rows(found: Found, project: str) -> Iterator[Row]:
    """Of one project; tests of one method are a group."""
    methods: dict[str, int] = {}
    for place, (path, line, record) in enumerate(found.records(project, partial(read_jsonl, require=COLUMNS), COLUMNS)):
        name, method, test, split = (text_of(record, column, path, line) for column in COLUMNS)
        if split not in SPLITS:
            raise UsageError(f"{path}, line {line}: split `{split}` is none of {', '.join(SPLITS)}.")
        if not method.strip() or not test.strip():
            raise UsageError(f"{path}, line {line}: `focal_method` or `test` is empty.")
        shown, first = focal(name, method), methods.setdefault(method, place)
        yield Row(f"{split}:{project}-{place}", shown, (test.strip(),), domain=project, group=f"{project}-{first}")


def focal(name: str, method: str) -> str:
    """What a model is shown of a method.

    >>> print(focal("Text", "int length() { return n; }"))
    class Text {
    int length() { return n; }
    }
    """
    return f"class {name} {{\n{method.strip()}\n}}"
