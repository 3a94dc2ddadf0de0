"""WHAT is asked: adapters to data sets, label spaces, metrics, few-shot protocols. Nothing here knows a model."""

from __future__ import annotations

import importlib
from pathlib import Path

from peftbench.config.schema import TaskConfig
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import DataSource, Row, TaskData

ADAPTERS = {
    "masakhanews": "peftbench.tasks.masakhanews:load",
    "demo_news": "peftbench.tasks.packaged:load",
    "topics": "peftbench.tasks.topics:load",
    "glue": "peftbench.tasks.glue:load",
    "superglue": "peftbench.tasks.superglue:load",
    "absa": "peftbench.tasks.absa:load",
    "sciprompt": "peftbench.tasks.sciprompt:load",
}
"""Adapter name -> "module:function"; the module is imported when a task asks for it."""


def load_task(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """Read one subset of a task.

    Args:
        cfg: the task's config.
        data_dir: the user's data folder (`data_dir=` or PEFTBENCH_DATA), or None for the hub and packaged data.

    Raises:
        UsageError: the subset is unknown, its files cannot be found, or a file is damaged.
    """
    if cfg.adapter not in ADAPTERS:
        raise UsageError(f"task.adapter={cfg.adapter}: no such adapter. {did_you_mean(cfg.adapter, ADAPTERS)}")
    module, function = ADAPTERS[cfg.adapter].split(":")
    return getattr(importlib.import_module(module), function)(cfg, data_dir)


__all__ = ["ADAPTERS", "DataSource", "Row", "TaskData", "load_task"]
