"""Whether a backbone has seen a task before: `seen:` of its model file, against the task of a run; and whether a run
has seen the texts of test. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

import peftbench.conf

MARK = "†"
"""Behind the model or score of what was seen."""
TEXTS = "‡"
"""Behind the method or score of what was trained with the texts of test before it (`trick=transductive`)."""


def seen_before(config: Mapping[str, Any], task: str, subset: str) -> str | None:
    """What the backbone of a run was trained on of the run's task, in the words of its model file; None if it is not
    known to have seen it.

    A run from before the key, and one from before an entry was added, goes by the packaged file of its model's name.

    Args:
        config: the run's; of a method without a backbone, it has seen nothing.
    """
    if (config.get("method") or {}).get("needs_model") is False:
        return None
    model = config.get("model") or {}
    known = {**_packaged(str(model.get("name"))), **(model.get("seen") or {})}
    return next((known[name] for name in (f"{task}/{subset}", subset, task) if name and name in known), None)


@lru_cache
def _packaged(name: str) -> dict[str, str]:
    path = Path(peftbench.conf.__file__).parent / "model" / f"{name}.yaml"
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or not path.is_file():
        return {}
    return dict(yaml.safe_load(path.read_text("utf-8")).get("seen") or {})


ABOUT = ("seen", "test_texts")
"""Columns of the leaderboard that `remarks` are about."""


def remarks(rows: Iterable[Mapping[str, Any]], about: Sequence[str] = ABOUT) -> list[str]:
    """A line for each backbone and task among rows of the leaderboard of which the backbone has seen the task, and one
    for each method that was trained with the texts of test; and one on runs whose seconds are shared."""
    found: dict[Hashable, str] = {}
    for row in rows:
        if row.get("shared"):
            found["shared"] = (
                "shared: seconds and peaks of runs that were trained together (trainer.together) are those of their "
                "group and no measure of a method; they are in no mean"
            )
        if row.get("test_texts") and "test_texts" in about:
            how = f"{TEXTS} method={row['method']} was trained with the texts of the rows that it is tested on"
            found[row["method"], TEXTS] = f"{how} (method.trick: {row['test_texts']}): not comparable with the others"
        if row.get("seen") and "seen" in about:
            task = f"{row['task']}/{row['subset']}" if row["subset"] else row["task"]
            said = f"{MARK} model={row['model']} has seen {task} in its own training"
            found[row["model"], task] = f"{said}: {row['seen']}"
    return [*found.values()]
