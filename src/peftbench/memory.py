"""What one command worked out for the next: small JSON values in the user's cache folder.

For things that are slow to find out and easy to check, so that `peftbench plan` answers at once. Every value may be
lost or deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError
from peftbench.models.cache import cache_dir
from peftbench.results.files import write_atomic

LIMIT = 5000
"""Values of one kind; the oldest tenth goes when there are more."""


class Memory:
    """Values of one kind. A key is everything that the value depends on."""

    def __init__(self, kind: str) -> None:
        self._folder = cache_dir() / "memory" / kind
        self._pruned = False

    def get(self, *key: Any) -> Any:
        """The value of this key, None if there is none."""
        try:
            told = json.loads(self._path(key).read_bytes())
            return told["value"] if told["key"] == [*key] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, value: Any, *key: Any) -> None:
        """Keep a value. What JSON would change is not kept, and a folder that cannot be written is no trouble."""
        told = {"key": [*key], "value": value}
        with suppress(TypeError, ValueError, OSError, UsageError):
            text = json.dumps(told)
            if json.loads(text) == told:
                write_atomic(self._path(key), text.encode(), durable=False)
                self._prune()

    def _path(self, key: tuple) -> Path:
        return self._folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"

    def _prune(self) -> None:
        """Once a command: forget the oldest if there are too many."""
        if self._pruned:
            return
        self._pruned = True
        paths = list(self._folder.glob("*.json"))
        if len(paths) > LIMIT:
            for path in sorted(paths, key=lambda p: p.stat().st_mtime)[: len(paths) - LIMIT + LIMIT // 10]:
                path.unlink(missing_ok=True)


def stamp(paths: Iterable[Path]) -> list[list[Any]] | None:
    """What changes when one of these files or folders does; None if one is not there."""
    try:
        return [[str(p), (s := os.stat(p)).st_mtime_ns, s.st_size, s.st_ino] for p in paths]
    except OSError:
        return None


@cache
def code_stamp(*packages: str) -> str:
    """What changes when a file below these folders of peftbench does: a checkout is edited without a new version."""
    root = Path(__file__).parent
    return tree_stamp(*(root / package for package in packages))


def tree_stamp(*folders: Path) -> str:
    """The same for folders anywhere, with all that is in them."""
    walks = [walk for folder in folders for walk in os.walk(folder)]
    files = sorted(Path(where, name) for where, _, names in walks for name in names if not name.endswith(".pyc"))
    return hashlib.sha256(json.dumps(stamp(files)).encode()).hexdigest()
