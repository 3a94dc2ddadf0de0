"""Several tasks, one after the other: `task=sequence task.of=[sst2,ag_news,rte]`.

Each entry of `of` is a task of ours; its whole section of the config stands, composed, under the subset that names the
sequence, so that the order and every task with its options are a part of the run's name. What is trained and asked when
is the business of `peftbench.stages.sequence`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.config import registry
from peftbench.config.components import problem_of
from peftbench.config.grammar import hydra_value
from peftbench.config.load import compose_raw, resolve
from peftbench.config.schema import RunConfig, TaskConfig, number, one_of
from peftbench.config.sections import build_task
from peftbench.config.tasks import adapter, mapping
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks import load_task
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.file import place_of
from peftbench.tasks.readers import read_text
from peftbench.tasks.sources import assemble, resolve_subset

SPLITS = ("train", "dev", "test")
ENTRY = re.compile(r"[\w.-]+(/[\w.-]+)?")
OF_SEVERAL = ("mixture", "sequence")
"""Kinds of targets of tasks that are made of tasks."""
KNOWLEDGE_SEED = 13
EXAMPLE = "'task.of=[sst2,ag_news,rte]'"


@dataclass
class SequenceConfig(TaskConfig):
    """`of`: the tasks in their order; `heads`: whether each has a head of its own;
    `knowledge`: a file of neutral texts."""

    of: Any = None
    heads: str = one_of("own", "shared", default="own")
    knowledge: str | None = None
    knowledge_texts: int = number(200, ge=2)


def settle(task: dict[str, Any]) -> dict[str, Any]:
    """The task with a subset that holds the sections of its tasks. One that has it already (a record's) stays as it is:
    a task's file may have changed since.

    Raises:
        UsageError: there are no tasks, there is no such task, one comes twice, or their labels cannot have one head.
    """
    entries = task.get("of") or ()
    check_entries(entries, "task.of")
    known = task.get("subset")
    tasks = ((task.get("subsets") or {}).get(known) or {}).get("tasks") if isinstance(known, str) else None
    if tasks is None:
        tasks = {}
        for entry in entries:
            name, section = section_of(entry)
            if name in tasks:
                raise UsageError(f"task.of: {name} stands there already. A task can be learned once in a sequence.")
            tasks[name] = section
    if task.get("heads") == "shared":
        for name, section in tasks.items():
            if (kind := _problem(section)) != "classification":
                raise UsageError(f"task.heads=shared: {name} is a {kind} task, and one head is for classes. Use own.")
    name = "+".join(tasks)
    return {**task, "subset": name, "subsets": {name: {"tasks": tasks}}}


def check_entries(value: Any, where: str) -> None:
    """Raises UsageError unless tasks are listed."""
    if not isinstance(value, (list, tuple)) or not value:
        given = "" if value in (None, (), "???") else f"={value}"
        raise UsageError(f"{where}{given}: give the tasks in their order, as in {EXAMPLE}.")


def section_of(entry: Any) -> tuple[str, dict[str, Any]]:
    """The name of an entry of `of` and its section of the config: `NAME`, `NAME/SUBSET` (a language, where the task has
    languages) or a mapping of `task` and other keys of it.

    Raises:
        UsageError: there is no such task, or it has no such subset or key.
    """
    if isinstance(entry, Mapping) and isinstance(entry.get("task"), str):
        chosen, options = entry["task"], {str(k): v for k, v in entry.items() if k != "task"}
    elif isinstance(entry, str) and ENTRY.fullmatch(entry):
        chosen, _, subset = entry.partition("/")
        options = {"": subset} if subset else {}
    else:
        raise UsageError(f"task.of: {entry}: give the name of a task, NAME/SUBSET or {{task: NAME, KEY: VALUE}}.")
    try:
        if "" in options:
            plain = _composed(chosen, {})
            options = {"lang" if "lang" in plain else "subset": options[""]}
        made = build_task(_composed(chosen, options))
    except UsageError as error:
        raise UsageError(f"task.of: {chosen}: {error}") from None
    if (kind := _problem(asdict(made))) in OF_SEVERAL:
        raise UsageError(f"task.of: {chosen} is a {kind} of several tasks itself. List its tasks.")
    if made.subsets and made.subset not in made.subsets:
        raise UsageError(f"task.of: {entry}: no such subset. {did_you_mean(made.subset, made.subsets)}")
    return re.sub(r"[^\w-]+", "-", f"{chosen}-{made.place}" if options else chosen), asdict(made)


def _composed(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The plain section of a task."""
    cfg = compose_raw([f"task={task}", *(f"task.{key}={hydra_value(value)}" for key, value in options.items())])
    return dict(resolve(cfg)["task"])


def _problem(section: Mapping[str, Any]) -> str:
    return problem_of(section, (section.get("subsets") or {}).get(section["subset"]) or {})


def fits(run: RunConfig) -> None:
    """Raises UsageError if the method cannot go on from one task to the next, or has nothing to learn from."""
    method = run.method
    for place, name in enumerate(method.stages):
        if place or not registry.get("stage", name).sequential:
            raise UsageError(
                f"task={run.task.name}: method={method.name} has the stage `{name}`, which does not go on from one "
                "task to the next. Use a method that trains by `supervised` alone, such as full, hft, lora or replay."
            )
    if method.trick:
        raise UsageError(
            f"method.trick.{next(iter(method.trick))}: is made for a single task, and task={run.task.name} is a "
            "sequence. Take the trick out."
        )
    if run.labelled == 0:
        raise UsageError(
            f"task={run.task.name}: shots=0 leaves nothing to learn from. Use shots of 1 and more, or full."
        )


@adapter(
    config=SequenceConfig,
    keys={"of": check_entries},
    subset={"tasks": mapping(lambda value, where: None)},
    settle=settle,
    fits=fits,
)
def load(cfg: SequenceConfig, data_dir: Path | None) -> TaskData:
    """The tasks with the rows of all of them. Test sets beside a task's own (MNLI's mismatched one) are left out."""
    subset = resolve_subset(cfg)
    tasks: dict[str, TaskData] = {}
    for name, section in subset.options["tasks"].items():
        try:
            tasks[name] = _named(load_task(build_task(section), data_dir), name)
        except UsageError as error:
            raise UsageError(f"task.of: {name}: {error}") from error
    labels = tuple(dict.fromkeys(label for task in tasks.values() for label in task.labels))
    words = {label: word for task in reversed(tasks.values()) for label, word in task.label_words.items()}
    splits = {split: [row for task in tasks.values() for row in getattr(task, split)] for split in SPLITS}
    files = {f"{name}/{file}": sha for name, task in tasks.items() for file, sha in task.source.files.items()}
    kinds = {task.source.kind for task in tasks.values()}
    where = " and ".join(dict.fromkeys(task.source.where for task in tasks.values()))
    source = DataSource(kinds.pop() if len(kinds) == 1 else "local", where, files=files)
    notes = [_of(name, note) for name, task in tasks.items() for note in task.notes]
    return assemble(
        cfg, subset, source, splits, notes, labels=labels, label_words=words, tasks=tasks,
        shared_head=cfg.heads == "shared", knowledge=neutral_texts(cfg, data_dir),
    )  # fmt: skip


def neutral_texts(cfg: SequenceConfig, data_dir: Path | None) -> tuple[str, ...]:
    """At most `knowledge_texts` lines of the file `knowledge`, always the same ones, in their order; none without one.

    Raises:
        UsageError: there is no such file, or less than two lines in it say something.
    """
    if cfg.knowledge is None:
        return ()
    path = place_of(cfg.knowledge, "task.knowledge", data_dir)
    if not path.is_file():
        raise UsageError(f"task.knowledge={cfg.knowledge}: a folder. Give a file of texts, one a line.")
    lines = list(dict.fromkeys(line.strip() for line in read_text(path).split("\n") if line.strip()))
    if len(lines) < 2:
        raise UsageError(f"{path}: {len(lines)} lines with a text in them; an interval needs two.")
    chosen = np.random.RandomState(KNOWLEDGE_SEED).permutation(len(lines))[: cfg.knowledge_texts]
    return tuple(lines[place] for place in sorted(chosen))


def _named(task: TaskData, name: str) -> TaskData:
    """A task whose rows say that they are of it."""

    def rows(split: str) -> list[Row]:
        return [
            replace(row, id=_id(row.id, name), domain=name, group=_group(row, name)) for row in getattr(task, split)
        ]

    splits: dict[str, Any] = {split: rows(split) for split in SPLITS}
    rest: dict[str, Any] = {"unlabeled": (), "extra_tests": {}, "extra_metrics": {}, "domains": ()}
    return replace(task, **splits, **rest)


def _id(row: str, name: str) -> str:
    split, _, number = row.partition(":")
    return f"{split}:{name}/{number}"


def _group(row: Row, name: str) -> str | None:
    return None if row.group is None else _id(row.group, name)


def _of(name: str, note: str) -> str:
    """A note of a task in one of the sequence; it still begins with the split that it is about."""
    split, colon, rest = note.partition(":")
    return f"{split}: {name}:{rest}" if colon and split in SPLITS else f"{name}: {note}"
