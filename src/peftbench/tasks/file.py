"""`task=file`: a CSV, TSV, JSON lines, JSON or parquet file of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from peftbench.config.tasks import adapter
from peftbench.config.user_files import user_folder
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import DataSource, TaskData
from peftbench.tasks.own_data import ALL, OWN_KEYS, OwnDataConfig, Record, named, own_task
from peftbench.tasks.readers import csv_rows, parse_json, read_jsonl, read_parquet, read_text
from peftbench.tasks.sources import file_sha256

NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
"""Split -> what its file in a folder may be called."""
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")


@adapter(config=OwnDataConfig, keys=OWN_KEYS, settle=named)
def load(cfg: OwnDataConfig, data_dir: Path | None) -> TaskData:
    """The rows of the file or files."""
    files = find(cfg, data_dir)
    tables = {split: [r for path in paths for r in read(path, cfg)] for split, paths in files.items()}
    paths = [path for found in files.values() for path in found]
    folder = paths[0].parent
    if not all(path.is_relative_to(folder) for path in paths):
        folder = Path(paths[0].anchor)
    hashes = {str(path.relative_to(folder)): file_sha256(path) for path in paths}
    return own_task(cfg, tables, DataSource("local", str(folder), files=hashes))


def find(cfg: OwnDataConfig, data_dir: Path | None) -> Mapping[str, Sequence[Path]]:
    """Split -> its files; `ALL` -> the one file that is to be split.

    Raises:
        UsageError: there is no such file or folder, or a folder holds none that could be read.
    """
    if cfg.splits:
        if "train" not in cfg.splits:
            raise UsageError("task.splits: names no train. Give it, or task.path=FILE to have one file split.")
        return {split: _files(place, f"task.splits.{split}", data_dir) for split, place in cfg.splits.items()}
    if not cfg.path:
        raise UsageError("task.path: has no value and needs one; give task.path=FILE or task.splits={train: FILE}.")
    path = place_of(cfg.path, "task.path", data_dir)
    if path.is_file():
        return {ALL: [path]}
    found = {
        split: [file for file in _readable(path) if file.name.partition(".")[0].lower() in names]
        for split, names in NAMES.items()
    }
    if not found["train"]:
        there = ", ".join(file.name for file in _readable(path)[:8]) or "no data file"
        raise UsageError(
            f"task.path={cfg.path}: a folder without a train file ({there}). Name its files: "
            "task.splits={train: FILE, test: FILE}."
        )
    return {split: files for split, files in found.items() if files}


def read(path: Path, cfg: OwnDataConfig) -> list[Record]:
    """The records of a file, by the format that its name tells. Lines without anything in them are passed over.

    Raises:
        UsageError: naming file and line of what cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _table(path, "\t" if suffix == ".tsv" else ",", cfg)
    if suffix in (".jsonl", ".ndjson"):
        return [Record(f"{path.name}, line {line}", record) for line, record in read_jsonl(path, blank=True)]
    if suffix == ".parquet":
        return [Record(f"{path.name}, row {line}", record) for line, record in read_parquet(path)]
    if suffix == ".json":
        return _json(path)
    raise UsageError(
        f"{path}: no reader for `{suffix or 'a name without ending'}`. Known: {', '.join(SUFFIXES)}. A spreadsheet can "
        "be saved as `CSV UTF-8`."
    )


def _table(path: Path, delimiter: str, cfg: OwnDataConfig) -> list[Record]:
    """A CSV or TSV file with a header. Where that has semicolons only, they separate, as spreadsheets have it."""
    first = read_text(path).lstrip("\r\n").partition("\n")[0]
    if delimiter not in first and ";" in first:
        delimiter = ";"
    rows = [(line, row) for line, row in csv_rows(path, delimiter, cfg.quoting) if any(cell.strip() for cell in row)]
    line, names = rows[0]
    if len(set(names)) < len(names):
        raise UsageError(f"{path}, line {line}: two columns have the same name. Found: {', '.join(names)}.")
    for number, row in rows[1:]:
        if len(row) != len(names):
            hint = "" if cfg.quoting == "none" else "; or task.quoting=none, where quotes are characters like any other"
            raise UsageError(
                f"{path}, line {number}: {len(row)} field{'s' * (len(row) != 1)} where {len(names)} are expected "
                f"({', '.join(names)[:200]}). A delimiter or quote is missing or too many{hint}."
            )
    return [Record(f"{path.name}, line {number}", dict(zip(names, row, strict=True))) for number, row in rows[1:]]


def _json(path: Path) -> list[Record]:
    content = parse_json(read_text(path), str(path))
    if isinstance(content, dict) and len(content) == 1:  # {"data": [...]}
        content = next(iter(content.values()))
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise UsageError(f"{path}: a list of objects is expected. With one object a line, name the file .jsonl.")
    return [Record(f"{path.name}, object {number}", record) for number, record in enumerate(content, start=1)]


def _files(place: str, key: str, data_dir: Path | None) -> list[Path]:
    path = place_of(place, key, data_dir)
    found = [path] if path.is_file() else _readable(path)
    if not found:
        raise UsageError(f"{key}={place}: no file in this folder ends in {', '.join(SUFFIXES)}.")
    return found


def _readable(folder: Path) -> list[Path]:
    try:
        return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror}). Check its permissions.") from error


def place_of(given: str, key: str, data_dir: Path | None) -> Path:
    """A file or folder: from here, from data_dir, or from the folder of the user's own configs."""
    path = Path(given).expanduser()
    user = user_folder()
    roots = [Path.cwd(), *([data_dir] if data_dir else []), *([user, user / "task"] if user else [])]
    try:
        for root in roots:
            if (found := root / path).is_file() or found.is_dir():
                return found.resolve()
        beside = [f.name for f in (roots[0] / path).parent.iterdir()] if (roots[0] / path).parent.is_dir() else []
    except (OSError, ValueError) as error:
        raise UsageError(f"{key}={given!r:.200}: cannot be read ({error}).") from error
    near = did_you_mean(path.name, beside, limit=8) if beside else ""
    raise UsageError(f"{key}={given}: no such file or folder below {' or '.join(map(str, roots))}. {near}")
