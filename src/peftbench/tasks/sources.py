"""From a task's YAML to its files: which subset, where the files lie, what their labels are called.

Data is looked for in the user's folder first, then on the Hugging Face hub, and if neither has it one message says
what was looked for and how to get it. Adapters call `resolve_subset`, `find_files` and `assemble`, and keep only what
is peculiar to their format.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.config.components import problem_of
from peftbench.config.metric_files import column, is_own
from peftbench.config.schema import TaskConfig
from peftbench.config.tasks import ENDS
from peftbench.errors import UsageError, did_you_mean
from peftbench.files import open_file
from peftbench.hub import HubProblem, Repository, fetch, resolve
from peftbench.tasks.base import DataSource, PatternSet, Row, TaskData
from peftbench.tasks.problems import kind
from peftbench.tasks.readers import place, read_parquet

Reader = Callable[[Path], Sequence[tuple[int, Mapping[str, Any]]]]


@dataclass(frozen=True)
class Subset:
    """One subset of a task: the task's common values with the subset's own merged over them.

    Attributes:
        name: language, GLUE task, domain ...
        labels: label as it is written in the files -> label name, in label order; empty for regression.
        sizes: split -> number of rows of the official split.
        files: split -> candidate file names below `folder`.
        hub: `repo`, `revision`, `files` (split -> glob pattern in the repository) and, where the hub's copy has other
            splits than the original, `required`.
        options: everything else that the YAML says about the subset, for its adapter.
    """

    name: str
    labels: Mapping[str, str]
    sizes: Mapping[str, int]
    languages: tuple[str, ...]
    metrics: tuple[str, ...]
    main_metric: str
    fields: tuple[str, ...]
    label_words: Mapping[str, str]
    folder: str
    files: Mapping[str, tuple[str, ...]]
    hub: Mapping[str, Any]
    licence: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Label names in label order, each once (several spellings in the files may mean one label)."""
        return tuple(dict.fromkeys(self.labels.values()))

    def label(self, raw: Any, path: Path, line: int) -> str:
        """The label name for a label as the file has it; anything outside the label set is a `UsageError`."""
        try:
            return self.labels[_spelling(raw)]
        except KeyError:
            raise UsageError(
                f"{place(path, line)}: the label `{raw}` is not in the label set of `{self.name}`. "
                f"{self._valid(_spelling(raw))}"
            ) from None

    def _valid(self, raw: str) -> str:
        """The nearest label and all of them; those that a file numbers with their names."""
        if not all(re.fullmatch(r"-?\d+", number) for number in self.labels):
            return did_you_mean(raw, self.labels)
        valid = ", ".join(number if name == number else f"{number} ({name})" for number, name in self.labels.items())
        meant = next((number for number, name in self.labels.items() if name == raw), None)
        return f"Valid: {valid}." + (f" This file has to say {meant} for `{raw}`." if meant else "")


@dataclass(frozen=True)
class Found:
    """The files of a subset, wherever they came from."""

    source: DataSource
    files: Mapping[str, tuple[Path, ...]]
    """Split -> its file, or its shards in order."""

    def records(
        self, split: str, reader: Reader, columns: Sequence[str] = ()
    ) -> Iterator[tuple[Path, int, Mapping[str, Any]]]:
        """`(file, line, record)` of each row of a split; nothing if the split is not there.

        `reader` reads the original format; a parquet file from the hub is read as such, has to have `columns`, and
        its `line` counts rows.
        """
        for path in self.files.get(split, ()):
            for line, record in read_parquet(path, columns) if path.suffix == ".parquet" else reader(path):
                yield path, line, record


def resolve_subset(cfg: TaskConfig, key: str = "task.subset") -> Subset:
    """The subset that the config asks for. `key` is what the user typed to choose it, for the error message."""
    if cfg.subset not in cfg.subsets:
        raise UsageError(
            f"{key}={cfg.subset}: task `{cfg.name}` has no such subset. {did_you_mean(cfg.subset, cfg.subsets)}"
        )
    own = dict(cfg.subsets[cfg.subset] or {})
    labels = own.pop("labels", ())
    if not isinstance(labels, Mapping):
        labels = {name: name for name in labels}
    labels = {_spelling(raw): str(name) for raw, name in labels.items()}
    metrics, main_metric = metrics_of(cfg, own), main_metric_of(cfg, own)
    for key in ("metrics", "main_metric"):
        own.pop(key, None)
    words = {**cfg.label_words, **own.pop("label_words", {})}
    files = {
        split: (names,) if isinstance(names, str) else tuple(names) for split, names in own.pop("files", {}).items()
    }
    return Subset(
        name=cfg.subset,
        labels=labels,
        sizes=own.pop("sizes", {}),
        languages=tuple(own.pop("languages", cfg.languages)),
        metrics=metrics,
        main_metric=main_metric,
        fields=tuple(own.pop("fields", cfg.fields)),
        label_words={name: words.get(name, name) for name in labels.values()},
        folder=own.pop("folder", cfg.folder),
        files=files,
        hub={**cfg.hub, **own.pop("hub", {})},
        licence=own.pop("licence", cfg.licence),
        options=own,
    )


def metrics_of(cfg: TaskConfig, subset: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics of a subset: its own, then those of the task that its targets have (all of them, if it has none)."""
    own = subset.get("metrics", ())
    if not own and not cfg.metrics:
        own = kind(problem_of(cfg, subset)).usual
    fitting = [m for m in cfg.metrics if not own or is_own(m) or m in kind(problem_of(cfg, subset)).metrics]
    return tuple(dict.fromkeys((*own, *fitting)))


def main_metric_of(cfg: TaskConfig, subset: Mapping[str, Any]) -> str:
    """The metric that tables show; `auto` is the first of the usual ones for the kind of target."""
    named = subset.get("main_metric", cfg.main_metric)
    return kind(problem_of(cfg, subset)).usual[0] if named == "auto" else column(named)


def find_files(
    cfg: TaskConfig,
    subset: Subset,
    data_dir: Path | None,
    files: Mapping[str, str | Sequence[str]] | None = None,
    required: Sequence[str] = ("train", "test"),
) -> Found:
    """The files of a subset: from `data_dir`, else from the hub, else one `UsageError` that says how to get them.

    Args:
        cfg: the task.
        subset: from `resolve_subset`.
        data_dir: the user's data folder, or None. It has to exist and to hold something.
        files: split -> candidate paths below `data_dir/subset.folder`, the first that exists is taken; default
            `subset.files`.
        required: splits without which a copy is of no use; the others may be absent.
    """
    candidates = {
        split: [names] if isinstance(names, str) else list(names) for split, names in (files or subset.files).items()
    }
    if data_dir is not None:
        check_data_dir(data_dir)
        try:
            found = _local(cfg, subset, data_dir / subset.folder, candidates, required)
        except OSError as error:
            raise UsageError(f"{error.filename}: cannot be read ({error.strerror}). Check its permissions.") from error
        if found:
            return found
    try:
        return _hub(subset, required)
    except HubProblem as problem:
        raise _not_found(cfg, subset, data_dir, candidates, required, problem) from problem


def check_data_dir(data_dir: Path) -> None:
    """Refuse a data folder that cannot hold anything, before a missing file is blamed."""
    hint = "Give data_dir= or PEFTBENCH_DATA the folder that holds the data sets."
    if not data_dir.is_dir():
        raise UsageError(f"data_dir={data_dir}: {'not a folder' if data_dir.exists() else 'no such folder'}. {hint}")
    try:
        empty = not any(data_dir.iterdir())
    except OSError as error:
        raise UsageError(f"data_dir={data_dir}: cannot be read ({error.strerror}). {hint}") from error
    if empty or not os.access(data_dir, os.X_OK):
        raise UsageError(f"data_dir={data_dir}: {'the folder is empty' if empty else 'cannot be entered'}. {hint}")


def assemble(
    cfg: TaskConfig,
    subset: Subset,
    found: Found | DataSource,
    splits: Mapping[str, Sequence[Row]],
    notes: Sequence[str] = (),
    **values: Any,
) -> TaskData:
    """`TaskData` of a subset with what the YAML knows filled in; `values` are further fields of `TaskData`.

    A split that does not have its official size is noted, so that no table takes it for the official one.
    """
    merged: dict[str, Any] = {
        "name": cfg.name,
        "subset": subset.name,
        "train": splits.get("train", ()),
        "dev": splits.get("dev", ()),
        "test": splits.get("test", ()),
        "labels": subset.label_names,
        "label_words": subset.label_words,
        "fields": subset.fields,
        "problem": problem_of(cfg, subset.options),
        "main_metric": subset.main_metric,
        "metrics": subset.metrics,
        "source": found.source if isinstance(found, Found) else found,
        "languages": subset.languages,
        "held_out": subset.options.get("held_out", ""),
        "cloze": pattern_sets(cfg, subset),
        "notes": (*note_sizes(subset.sizes, splits), *notes),
    }
    return TaskData(**{**merged, **values})


def pattern_sets(cfg: TaskConfig, subset: Subset) -> dict[str, PatternSet]:
    """The cloze patterns of the YAML: those of the task, with the subset's own in front and laid over them.

    Raises:
        UsageError: a set has no pattern.
    """
    own = subset.options.get("cloze", {})
    labels = ENDS if "score_range" in subset.options else subset.label_names
    sets = {}
    for name in dict.fromkeys([*own, *cfg.cloze]):
        values = {**cfg.cloze.get(name, {}), **own.get(name, {})}
        words = {label: _tuple(word) for label, word in values.get("words", subset.label_words).items()}
        named = {label: words.get(label, (subset.label_words.get(label, label),)) for label in labels}
        patterns = _tuple(values.get("patterns", ()))
        if not patterns:
            raise UsageError(f"task.cloze.{name}: the set has no patterns.")
        sets[name] = PatternSet(name, patterns, named, values.get("shorten", "longest"), values.get("source", ""))
    return sets


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(v) for v in value)


def text_of(record: Mapping[str, Any], column: str, path: Path, line: int) -> str:
    """A column of a JSON or parquet record that has to be text; null or a number is a `UsageError`, not "None"."""
    value = record[column]
    if not isinstance(value, str):
        raise UsageError(f"{place(path, line)}: `{column}` has to be text, found {value!r:.60}.")
    return value


def note_sizes(official: Mapping[str, int], splits: Mapping[str, Sequence[Row]]) -> tuple[str, ...]:
    """A remark for each split whose number of rows is not the official one."""
    notes = []
    for split, size in official.items():
        count = len(splits.get(split, ()))
        if count < size:
            notes.append(f"{split}: {count} of the official {size} rows; not comparable with full-data results")
        elif count > size:
            notes.append(f"{split}: {count} rows, the official split has {size}; not the official split")
    return tuple(notes)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with open_file(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _spelling(raw: Any) -> str:
    """A label as text: JSON's true and false, and the integers of a YAML key or a parquet column. Characters that a
    file has in other code points than the YAML (an accent of its own) are the same."""
    return str(raw).lower() if isinstance(raw, bool) else unicodedata.normalize("NFC", str(raw))


def _local(
    cfg: TaskConfig, subset: Subset, folder: Path, candidates: Mapping[str, list[str]], required: Sequence[str]
) -> Found | None:
    """The local copy, None if there is no trace of one, an error if it is a torso."""
    files = {
        split: (path,)
        for split, names in candidates.items()
        if (path := next((folder / name for name in names if (folder / name).is_file()), None))
    }
    missing = [split for split in required if split not in files]
    if files and missing:
        wanted = ", ".join(str(folder / candidates[split][0]) for split in missing)
        raise UsageError(
            f"task `{cfg.name}`, subset `{subset.name}`: {folder} holds only a part of the data. Missing: {wanted}. "
            "Complete the folder, or leave data_dir out to read from the Hugging Face hub."
        )
    if not files:
        return None
    hashes = {str(path.relative_to(folder)): file_sha256(path) for paths in files.values() for path in paths}
    return Found(DataSource("local", str(folder), files=hashes), files)


def _hub(subset: Subset, required: Sequence[str]) -> Found:
    """The hub's copy at the pinned revision, downloaded once and then read from its cache.

    Raises:
        HubProblem: it cannot be had, or has other files.
    """
    if not subset.hub:
        raise HubProblem("this task has no copy on the hub")
    repository = Repository(subset.hub["repo"], "dataset", "task.hub.repo", "task.hub.revision")
    patterns = {
        split: pattern.format(name=subset.hub.get("name", subset.name))
        for split, pattern in subset.hub["files"].items()
    }
    commit = resolve(repository, str(subset.hub["revision"])).commit
    snapshot = fetch(repository, commit, list(patterns.values()))
    files = {split: paths for split, pattern in patterns.items() if (paths := tuple(sorted(snapshot.glob(pattern))))}
    if missing := [patterns[split] for split in subset.hub.get("required", required) if split not in files]:
        raise HubProblem(
            f"the commit has no file {', '.join(missing)}", "a commit that has it (task.hub.revision=COMMIT)"
        )
    hashes = {str(path.relative_to(snapshot)): file_sha256(path) for paths in files.values() for path in paths}
    # the folder is named by the commit: a moving revision is recorded as the commit that it stood for
    return Found(DataSource("hub", repository.name, revision=snapshot.name, files=hashes), files)


def _not_found(
    cfg: TaskConfig,
    subset: Subset,
    data_dir: Path | None,
    candidates: Mapping[str, list[str]],
    required: Sequence[str],
    problem: HubProblem,
) -> UsageError:
    wanted = [str(Path(subset.folder, candidates[split][0])) for split in required]
    below = f"{data_dir} (data_dir)" if data_dir else "data_dir, which is not set"
    hub = "There is no copy on the hub that could be fetched instead."
    ways = "give data_dir=FOLDER or PEFTBENCH_DATA=FOLDER with these files in it"
    if subset.hub:
        copy = f"{subset.hub['repo']}@{subset.hub['revision']}"
        hub = f"Looked on the Hugging Face hub: {copy} ({problem.reason})"
        ways += f"; or {problem.way}" if problem.way else ""
    return UsageError(
        f"task `{cfg.name}`, subset `{subset.name}`: no data.\n"
        f"  Looked below {below}, for: {', '.join(wanted)}\n"
        f"  {hub}\n"
        f"  Ways out: {ways}."
    )
