"""Data that travels with the package: `demo_news`, the default task, which needs neither a folder nor a network."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import adapter
from peftbench.tasks.base import DataSource, TaskData
from peftbench.tasks.masakhanews import SPLITS, article_rows
from peftbench.tasks.sources import Found, assemble, file_sha256, resolve_subset
from peftbench.version import __version__


@adapter(subset={})
def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """The packaged articles, in MasakhaNEWS's format. `data_dir` is not looked at."""
    subset = resolve_subset(cfg)
    with as_file(files("peftbench.tasks") / subset.folder) as folder:
        paths = {split: folder / f"{split}.tsv" for split in SPLITS}
        hashes = {path.name: file_sha256(path) for path in paths.values()}
        source = DataSource("packaged", f"peftbench/tasks/{subset.folder}", __version__, hashes)
        found = Found(source, {split: (path,) for split, path in paths.items()})
        splits = {split: article_rows(split, found, subset, "category", "headline_text") for split in SPLITS}
    return assemble(cfg, subset, found, splits)
