"""What was computed for tables once, kept beside the records in `.tables.json`. The file can be deleted at any time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.records.store import Store

T = TypeVar("T")

_FILE = ".tables.json"
_VERSION = 1


class ValueCache:
    """Plain values by keys that change whenever the value would. `save` writes down what is new."""

    def __init__(self, store: Store) -> None:
        self._path = store.out_dir / _FILE
        self._known = self._read()
        self._new = False

    def recall(self, key: Any, compute: Callable[[], T], keep: Callable[[], bool] = lambda: True) -> T:
        """What is known under `key`, or else `compute()`, which is kept if `keep()` says so afterwards.

        Args:
            key: JSON can hold it.
            compute: gives a value that JSON can hold.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        if digest in self._known:
            return self._known[digest]
        value = compute()
        if keep():
            self._known[digest] = value
            self._new = True
        return value

    def save(self) -> None:
        """Keep what is new; a folder that cannot be written costs time at the next call, nothing else."""
        if self._new and self._path.parent.is_dir():
            content = json.dumps({"version": _VERSION, "known": self._known}).encode()
            with suppress(UsageError):
                write_atomic(self._path, content, durable=False)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes())
            return dict(found["known"]) if found["version"] == _VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
