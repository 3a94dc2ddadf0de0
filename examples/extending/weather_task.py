"""A task's adapter: weather reports of two kinds, made up here instead of read from files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from peftbench.config.schema import TaskConfig
from peftbench.tasks.base import DataSource, Row, TaskData

WORDS = {"dry": ("sun", "heat", "a clear sky", "dust"), "wet": ("rain", "a storm", "hail", "drizzle")}


def load(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """Rows of id, text and label. A real adapter reads them from a folder in `data_dir`."""
    rows = {split: rows_of(split, days) for split, days in (("train", 24), ("dev", 6), ("test", 12))}
    text = "".join(row.text for split in rows.values() for row in split)
    return TaskData(
        name=cfg.name,
        subset=cfg.subset,
        **rows,
        labels=tuple(WORDS),
        label_words=cfg.label_words,
        fields=tuple(cfg.fields),
        problem="classification",
        main_metric=cfg.main_metric,
        metrics=tuple(cfg.metrics),
        source=DataSource("packaged", "made up", files={"rows": hashlib.sha256(text.encode()).hexdigest()}),
    )


def rows_of(split: str, days: int) -> list[Row]:
    """`days` reports of each label; no two splits share a text."""
    return [
        Row(f"{split}:{label}:{day}", f"The {split} report of day {day}: {words[day % len(words)]} is expected.", label)
        for label, words in WORDS.items()
        for day in range(days)
    ]
