"""SHA-256 of the files of a checkpoint, computed once while they stay. Free of torch."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftbench.cache import Cache
from peftbench.errors import UsageError
from peftbench.models.folder import regular

SETTLED = 2 * 10**9
"""Nanoseconds after its last change from which on a file's hash is kept: a clock's tick may hide a second change."""

_hashes: dict[str, str] = {}


def content_hash(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of `files`, in the order of their names; computed once while they stay.

    Raises:
        UsageError: one of them is no regular file, or cannot be read.
    """
    ordered = sorted(files)
    key = [_stamp(file) for file in ordered]
    name = json.dumps(key)
    if name in _hashes:
        return _hashes[name]

    def settled() -> bool:
        return all(time.time_ns() - changed > SETTLED for *_, changed in key)

    known = Cache("content-hashes").once(key, lambda: _sha256(ordered), keep=settled)
    if settled():
        _hashes[name] = known
    return known


def _stamp(file: Path) -> list[Any]:
    """What changes when the file does. The time of change cannot be set back, as that of the content can."""
    found = regular(file).stat()
    return [str(file.absolute()), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    digest.update(chunk)
        except OSError as error:
            raise UsageError(f"{file}: cannot be read ({error.strerror}).") from None
    return digest.hexdigest()
