"""`task=hf`: whatever `datasets` can load, from the hub, its cache or local files. No script ever runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.config.tasks import adapter
from peftbench.errors import UsageError, did_you_mean
from peftbench.hub import HubProblem, Repository, gated, known_problem, readable, resolve, say, stoppable
from peftbench.tasks.base import DataSource, TaskData
from peftbench.tasks.own_data import ALL, OWN_KEYS, OwnDataConfig, Record, named, own_task
from peftbench.tasks.sources import file_sha256

NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}
"""Split -> what a data set may call it."""
BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass
class HubDataConfig(OwnDataConfig):
    """`conf/task/hf.yaml`: whatever `datasets` can load."""

    config: str | None = None


@adapter(config=HubDataConfig, keys=OWN_KEYS, settle=named)
def load(cfg: HubDataConfig, data_dir: Path | None) -> TaskData:
    """The rows of the data set's splits."""
    if not cfg.path:
        raise UsageError("task.path: has no value and needs one; give task.path=ORG/NAME, or a local folder or file.")
    place = Path(cfg.path).expanduser()
    local = place.exists()
    found, revision = _fetch(cfg, place if local else None)
    chosen = _splits(cfg, found)
    tables = {split: list(_records(cfg, name, found[name])) for split, name in chosen.items()}
    if local:
        paths = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
        folder = place.parent if place.is_file() else place
        hashes = {str(path.relative_to(folder)): file_sha256(path) for path in paths}
        return own_task(cfg, tables, DataSource("local", str(folder.resolve()), files=hashes))
    return own_task(cfg, tables, DataSource("hub", cfg.path, revision=revision))


def _fetch(cfg: HubDataConfig, place: Path | None) -> tuple[Mapping[str, Any], str | None]:
    """The splits of a data set, and the commit (of local files, a hash) that they were loaded from."""
    import datasets

    if place is not None:
        name, options = _builder_of(cfg, place)
        return _load(cfg, lambda: datasets.load_dataset_builder(name, cfg.config, **options))
    repository, revision, problem = _repository(cfg), cfg.revision, None
    try:
        revision = resolve(repository, cfg.revision or "main").commit
    except HubProblem as found:
        if found.status and not found.passing:
            raise _refused(cfg, found) from found
        problem = found  # `datasets` has a cache of its own, which may do
    return _load(cfg, lambda: datasets.load_dataset_builder(str(cfg.path), cfg.config, revision=revision), problem)


def _repository(cfg: HubDataConfig) -> Repository:
    return Repository(str(cfg.path), "dataset", "task.path", "task.revision")


def _builder_of(cfg: HubDataConfig, place: Path) -> tuple[str, dict[str, Any]]:
    """What of `datasets` reads a local file or folder, and with which options."""
    if not place.is_file():
        return str(place.resolve()), {}
    if place.suffix.lower() not in BUILDERS:
        raise UsageError(f"task.path={cfg.path}: no reader for this kind of file. Known: {', '.join(BUILDERS)}.")
    separator = {"sep": "\t"} if place.suffix.lower() == ".tsv" else {}
    return BUILDERS[place.suffix.lower()], {"data_files": str(place.resolve()), **separator}


def _load(
    cfg: HubDataConfig, make: Callable[[], Any], problem: HubProblem | None = None
) -> tuple[Mapping[str, Any], str | None]:
    """What the builder of `datasets` that `make` gives prepares: read from its cache, or fetched and said.

    Args:
        problem: that the hub could not be asked, and why.
    """
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        builder = make()
        awaited = problem is None and _announced(cfg, builder)
        if awaited and sys.stderr.isatty():
            datasets.enable_progress_bars()
        with stoppable(str(cfg.path), told=awaited):
            builder.download_and_prepare()
        return builder.as_dataset(), builder.hash
    except Exception as error:  # whatever stops the library: no network, no such data set, a script, a damaged file
        if found := problem if problem and isinstance(error, OSError) else _of_the_hub(cfg, error):
            raise _refused(cfg, found) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise UsageError(
            f"task.path={cfg.path}: `datasets` cannot load it ({type(error).__name__}: {reason}). Check the files, "
            "task.config and task.revision; a data set that is a script never runs here."
        ) from error
    finally:
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()


def _of_the_hub(cfg: HubDataConfig, error: Exception) -> HubProblem | None:
    """What the hub has to do with an error of `datasets`; None if it is about the files themselves."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    if Path(str(cfg.path)).expanduser().exists() or isinstance(error, DatasetGenerationError):
        return None
    if isinstance(error, DatasetNotFoundError) and "gated" in str(error):
        return gated()  # the library has dropped what the hub's client said
    return known_problem(error, _repository(cfg))


def _announced(cfg: HubDataConfig, builder: Any) -> bool:
    """Say how much of the hub's files is to come, if any; whether it was said."""
    repository = _repository(cfg)
    files = [str(file) for names in (builder.config.data_files or {}).values() for file in names]
    if Path(builder.cache_dir).is_dir() or not all(file.startswith("hf://") for file in files):
        return False
    sizes = resolve(repository, cfg.revision or "main").files or {}
    found = [sizes.get(file.partition("@")[2].partition("/")[2]) for file in files]
    size = "" if None in found else f", {readable(sum(n for n in found if n is not None))}"
    say(f"fetching {repository.name}@{builder.hash}{size}")
    return True


def _refused(cfg: HubDataConfig, problem: HubProblem) -> UsageError:
    ways = "; ".join(way for way in (problem.way, "task.path=FOLDER with a copy of its files") if way)
    return UsageError(f"task.path={cfg.path}: {problem.reason}. Ways out: {ways}.")


def _splits(cfg: HubDataConfig, found: Mapping[str, Any]) -> dict[str, str]:
    """Our split -> the data set's; `ALL` -> its only one."""
    if cfg.splits:
        for split, name in cfg.splits.items():
            if name not in found:
                raise UsageError(f"task.splits.{split}={name}: no such split. {did_you_mean(name, found)}")
        return dict(cfg.splits)
    if len(found) == 1:
        return {ALL: next(iter(found))}
    chosen = {split: name for split, names in NAMES.items() if (name := next((n for n in names if n in found), ""))}
    if "train" not in chosen:
        raise UsageError(
            f"task.path={cfg.path}: no split is called train. It has {', '.join(found)}: choose with "
            "task.splits={train: NAME, test: NAME}."
        )
    return chosen


def _records(cfg: HubDataConfig, split: str, table: Any) -> Iterator[Record]:
    """The rows of a split; numbered classes by their names, -1 (hidden) as none."""
    names = getattr(table.features.get(cfg.label), "names", None)
    for number, values in enumerate(table, start=1):
        if names is not None:
            raw = values[cfg.label]
            values = {**values, cfg.label: names[raw] if isinstance(raw, int) and 0 <= raw < len(names) else None}
        yield Record(f"{cfg.path}, {split} row {number}", values)
