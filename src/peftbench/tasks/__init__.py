"""WHAT is asked: adapters to data sets, label spaces, metrics, few-shot protocols. Nothing here knows a model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.config import registry
from peftbench.config.components import problem_of
from peftbench.config.metric_files import is_own
from peftbench.config.schema import RunConfig, TaskConfig
from peftbench.errors import UsageError, did_you_mean
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.lowercase import lowered
from peftbench.tasks.metrics import check_metrics
from peftbench.tasks.problems import kinds
from peftbench.tasks.sources import main_metric_of, metrics_of
from peftbench.tasks.transfer import transferred


def load_task(cfg: TaskConfig, data_dir: Path | None) -> TaskData:
    """Read one subset of a task.

    Args:
        cfg: the task's config.
        data_dir: the user's data folder (`data_dir=` or PEFTBENCH_DATA), or None for the hub and packaged data.

    Raises:
        UsageError: the subset is unknown, its files cannot be found, or a file is damaged.
    """
    load = registry.get("adapter", cfg.adapter)
    check_task_metrics(cfg)
    data = load(cfg, data_dir)
    if source := getattr(cfg, "source_lang", None):
        plain: Any = {"lang": source, "subset": source, "source_lang": None}
        data = transferred(load(replace(cfg, **plain), data_dir), data)
    if templates := cfg.templates_of(cfg.subset):
        data = replace(data, templates=tuple(templates))
    return lowered(data, cfg.lowercase) if cfg.lowercase else data


def data_dir(cfg: RunConfig) -> Path | None:
    """Where real data sets lie: the config's `data_dir`, else the environment's, else nowhere."""
    folder = cfg.data_dir or os.environ.get("PEFTBENCH_DATA")
    return Path(folder).expanduser() if folder else None


def check_task_metrics(cfg: TaskConfig) -> None:
    """Check the metrics of the chosen subset, and of the task, before any file is read. The adapter refuses a
    subset that there is not."""
    if cfg.subsets and cfg.subset not in cfg.subsets:
        return
    subset = (cfg.subsets or {}).get(cfg.subset) or {}
    known = {name for problem in kinds().values() for name in problem.metrics}
    for name in cfg.metrics:
        if name not in known and not is_own(name):
            raise UsageError(f"task.metrics: no metric `{name}`. {did_you_mean(name, known)}")
    where = f"task.subsets.{cfg.subset}" if subset.keys() & {"metrics", "main_metric"} else "task"
    check_metrics(metrics_of(cfg, subset), main_metric_of(cfg, subset), problem_of(cfg, subset), where)


__all__ = ["DataSource", "Row", "TaskData", "data_dir", "load_task"]
