"""Classification sets that have a folder a language, laid out as those of `topics`: AfriSenti, NollySenti, AmericasNLI.

`task.source_lang` trains on another language of the same set; see `peftbench.tasks.transfer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from peftbench.config.schema import TaskConfig, transfer_name
from peftbench.config.tasks import adapter, text
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import TaskData
from peftbench.tasks.sources import assemble, find_files, resolve_subset
from peftbench.tasks.topics import SUBSET_KEYS, read_splits


@dataclass
class LanguageConfig(TaskConfig):
    """A task whose subsets are languages. `source_lang`: train and dev come from there, test from `lang`."""

    lang: str = MISSING
    source_lang: str | None = None

    @property
    def place(self) -> str:
        return transfer_name(self.source_lang, self.subset) if self.source_lang else self.subset


def check_source(task: dict[str, Any]) -> dict[str, Any]:
    """The task as it is.

    Raises:
        UsageError: `source_lang` is no language of the task.
    """
    source, languages = task.get("source_lang"), task.get("subsets") or {}
    if source is not None and (not isinstance(source, str) or source not in languages):
        raise UsageError(
            f"task.source_lang={source}: task `{task.get('name')}` has no such language. "
            f"{did_you_mean(str(source), map(str, languages))}"
        )
    return task


@adapter(config=LanguageConfig, subset={**SUBSET_KEYS, "language": text}, settle=check_source)
def load(cfg: LanguageConfig, data_dir: Path | None) -> TaskData:
    """One language. A language without a train file has no train rows: it can be tested, and trained elsewhere."""
    subset = resolve_subset(cfg, key="task.lang")
    required = subset.options.get("required", [split for split in subset.files if split != "dev"])
    found = find_files(cfg, subset, data_dir, required=required)
    splits, notes = read_splits(subset, found)
    return assemble(cfg, subset, found, splits, notes)
