"""The draw of a run: of one task, or of a sequence one of each task by the same protocol, and all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from peftbench.config.schema import ProtocolConfig
from peftbench.errors import UsageError
from peftbench.tasks.base import TaskData
from peftbench.tasks.protocols.draw import Draw, data_seed_of, draw_task
from peftbench.tasks.protocols.splits import Key, Rows, hold_out, without


def draw(data: TaskData, cfg: ProtocolConfig, shots: int | str, data_seed: int | None = None, seed: int = 1) -> Draw:
    """Draw the rows of a run, as `draw_task`; of a sequence, as `draw_tasks`."""
    return (draw_tasks if data.tasks else draw_task)(data, cfg, shots, data_seed, seed)


def draw_tasks(
    data: TaskData, cfg: ProtocolConfig, shots: int | str, data_seed: int | None = None, seed: int = 1
) -> Draw:
    """The draws of the tasks, one behind the other.

    With `protocol.drop_overlap` no text of any task's test set is trained on in another task either.

    Raises:
        UsageError: as `draw_task`, with the name of the task.
    """
    tests = {name: _test_keys(task, cfg) for name, task in data.tasks.items()}
    draws: dict[str, Draw] = {}
    dropped: Counter[str] = Counter()
    for name, task in data.tasks.items():
        others = {key for other, keys in tests.items() if other != name for key in keys}
        task, dropped[name] = _apart(task, others if cfg.drop_overlap else ())
        try:
            draws[name] = draw_task(task, cfg, shots, data_seed, seed)
        except UsageError as error:
            raise UsageError(f"task.of: {name}: {error}") from None
    notes = [f"{name}: {note}" for name, own in draws.items() for note in own.notes]
    notes += [
        f"{name}: {count} train and dev rows left out, whose texts stand in the test set of another task"
        for name, count in dropped.items()
        if count
    ]
    every = list(draws.values())
    overlap = Counter({key: 0 for own in every for key in own.overlap})
    for own in every:
        overlap.update(own.overlap)
    overlap["dropped"] += dropped.total()
    return Draw(
        protocol=cfg.name,
        version=cfg.version,
        unit="/".join(dict.fromkeys(own.unit for own in every)),
        shots=shots,
        data_seed=data_seed_of(cfg, data_seed, seed),
        select="best" if any(own.select == "best" for own in every) else "last",
        train=tuple(row for own in every for row in own.train),
        dev=tuple(row for own in every for row in own.dev),
        test=tuple(row for own in every for row in own.test),
        extra_tests={},
        unlabeled=(),
        overlap=overlap,
        notes=tuple(notes),
        problem=data.problem,
        tasks=draws,
    )


def _test_keys(task: TaskData, cfg: ProtocolConfig) -> set[Key]:
    return {task.text_keys[row.id] for row in hold_out(task, cfg, []).test}


def _apart(task: TaskData, barred: Collection[Key]) -> tuple[TaskData, int]:
    """The task without the train rows, and dev rows that are not tested on, whose texts are `barred`; how many."""
    splits: Mapping[str, Rows] = {"train": tuple(task.train), "dev": tuple(task.dev) if task.test else ()}
    kept = {split: without(rows, task.text_keys, barred) for split, rows in splits.items()}
    count = sum(len(rows) - len(kept[split]) for split, rows in splits.items())
    changed: dict[str, Any] = {split: kept[split] for split in splits if splits[split]}
    return (replace(task, **changed) if count else task), count
