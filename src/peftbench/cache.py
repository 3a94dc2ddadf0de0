"""What is made once on a machine and used by every later command: converted weights, small JSON values.

`JsonCache` is for things that are slow to find out and easy to check, so that `peftbench plan` answers at once.
Every value may be lost or deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError
from peftbench.files import write_atomic


def cache_dir() -> Path:
    """The folder for what can be made again: `PEFTBENCH_CACHE`, else `~/.cache/peftbench`. It may not exist yet."""
    return Path(os.environ.get("PEFTBENCH_CACHE") or Path.home() / ".cache" / "peftbench")


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The cache folder `models/NAME`, filled by `build(folder)` if it is not there yet.

    It appears under its name only when complete: it is filled beside it and renamed, under a lock, so neither a
    killed process nor a parallel sweep leaves half a folder.
    """
    from filelock import FileLock

    final = cache_dir() / "models" / name
    if final.is_dir():
        return final
    partial = final.with_name(f".{name}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f".{name}.lock")):
            if not final.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                build(partial)
                partial.rename(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UsageError(
            f"cannot write the converted weights of {name} to {final.parent}: {error}. "
            "Set the environment variable PEFTBENCH_CACHE to a writable folder with free space."
        ) from error
    return final


LIMIT = 5000
"""Values of one kind; the oldest tenth goes when there are more."""


class JsonCache:
    """Values of one kind. A key is everything that the value depends on."""

    def __init__(self, kind: str) -> None:
        self._folder = cache_dir() / "json" / kind
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
