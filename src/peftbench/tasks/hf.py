"""`task=hf`: whatever `datasets` can load, from the hub, its cache or local files. No script ever runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.config.tasks import adapter
from peftbench.errors import UsageError, did_you_mean
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

    where = f"task.path={cfg.path}"
    if place is not None and place.is_file():
        if place.suffix.lower() not in BUILDERS:
            raise UsageError(f"{where}: no reader for this kind of file. Known: {', '.join(BUILDERS)}.")
        options: dict[str, Any] = {"data_files": str(place.resolve())}
        if place.suffix.lower() == ".tsv":
            options["sep"] = "\t"
        name = BUILDERS[place.suffix.lower()]
    else:
        name, options = str(place.resolve()) if place else str(cfg.path), {}
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(name, cfg.config, revision=None if place else cfg.revision, **options)
        builder.download_and_prepare()
        return builder.as_dataset(), builder.hash
    except Exception as error:  # whatever stops the library: no network, no such data set, a script, a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        ways = "Check the name" if place is None else "Check the files"
        raise UsageError(
            f"{where}: `datasets` cannot load it ({type(error).__name__}: {reason}). {ways}, task.config and "
            "task.revision; a data set of the hub needs the network once (without HF_HUB_OFFLINE), and one that is a "
            "script never runs here."
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


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
