"""Metrics of the user's own in a task's config: `my_metrics.py:cost` or `package.module:cost`, with a hash of the code.

A named function is code that the user chose; nothing is ever fetched. The hash stands behind the name in the config and
so in the name of every run, which an edit of the file changes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from peftbench.errors import UsageError

_NAMED = re.compile(r"(?P<place>.+):(?P<name>[A-Za-z_]\w*)(?:#(?P<sha>[0-9a-f]{64}))?")


def is_own(metric: str) -> bool:
    """Whether a metric is named by where its code lies."""
    return ":" in metric


def column(metric: str) -> str:
    """What results call a metric: the name of its function.

    >>> column("my_metrics.py:cost"), column("accuracy")
    ('cost', 'accuracy')
    """
    return parts(metric)[1] if is_own(metric) else metric


def parts(metric: str) -> tuple[str, str]:
    """The file or module of a metric of one's own, and the function in it."""
    found = _NAMED.fullmatch(metric)
    if found is None:
        raise UsageError(f"task.metrics: `{metric}` is neither a metric nor FILE.py:FUNCTION nor MODULE:FUNCTION.")
    return found["place"], found["name"]


def fingerprint(metric: str) -> str:
    """A metric of one's own with the absolute path of its file and the hash of the code; others as they are.

    Raises:
        UsageError: there is no such file or module, or it is not the one that the run began with.
    """
    if not is_own(metric):
        return metric
    place, name = parts(metric)
    path = Path(place).expanduser().resolve() if place.endswith(".py") else _file_of(place, metric)
    if not path.is_file():
        raise UsageError(f"task.metrics: {place}: no such file.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if "#" in metric and not metric.endswith(f"#{digest}"):
        raise UsageError(f"task.metrics: {place}: was edited since this run began. Start it again.")
    return f"{path if place.endswith('.py') else place}:{name}#{digest}"


def _file_of(module: str, metric: str) -> Path:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise UsageError(f"task.metrics: `{metric}`: {error}.") from error
    if spec is None or not spec.origin:
        raise UsageError(
            f"task.metrics: `{metric}`: there is no module {module}. A file is named with its ending: {module}.py:..."
        )
    return Path(spec.origin)
