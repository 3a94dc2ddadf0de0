"""Metrics of the user's own in a task's config: `my_metrics.py:cost` or `package.module:cost`, with a hash of the code.

A named function is code that the user chose; nothing is ever fetched. The hash stands behind the name in the config and
so in the name of every run, which an edit of the file changes. An entry point has its version among
the plug-ins of the run.
"""

from __future__ import annotations

from peftbench.config import registry
from peftbench.errors import UsageError


def is_own(metric: str) -> bool:
    """Whether a metric is named by where its code lies, or by an entry point."""
    return registry.is_plugin("metric", metric.partition("#")[0])


def column(metric: str) -> str:
    """What results call a metric: the name of its function.

    >>> column("my_metrics.py:cost"), column("accuracy")
    ('cost', 'accuracy')
    """
    return metric.partition("#")[0].rpartition(":")[2]


def fingerprint(metric: str) -> str:
    """A metric of one's own with the absolute path of its file and the hash of the code; others as they are.

    Raises:
        UsageError: there is no such file or module, or it is not the one that the run began with.
    """
    named, _, begun = metric.partition("#")
    if not is_own(metric) or named in registry.names("metric"):
        return metric
    place, _, function = named.rpartition(":")
    if not (place and function.isidentifier()):
        raise UsageError(f"task.metrics: `{metric}` is neither a metric nor FILE.py:FUNCTION nor MODULE:FUNCTION.")
    found = registry.address("metric", named)
    if not found.origin:
        raise UsageError(
            f"task.metrics: `{metric}`: there is no module {place}. A file is named with its ending: {place}.py:..."
        )
    digest = found.origin.removeprefix("sha256:")
    if begun not in ("", digest):
        raise UsageError(f"task.metrics: {place}: was edited since this run began. Start it again.")
    return f"{found.target}#{digest}"
