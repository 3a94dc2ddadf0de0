"""Whether files in the hub's cache are those of the hub: a blob is named by the hash of what it should hold.

The client compares lengths alone. Here each blob is hashed once and then known by its size, inode and time of change.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from peftbench.cache import Cache, stamp

SETTLED = 2 * 10**9
"""Nanoseconds after its last change from which on a blob is remembered: a clock's tick may hide a second change."""

_sound: set[str] = set()
"""Stamps of blobs that this process has looked at."""


def damaged(files: Iterable[Path]) -> list[Path]:
    """Those of `files` in a snapshot whose bytes are not the ones that their blob is named by.

    Where the cache has no links (some file systems), nothing says what a file should be, and it is taken as it is.
    """
    return [file for file in sorted(files) if file.is_symlink() and not _is_sound(file.resolve())]


def is_cached(file: Path) -> bool:
    """Whether a file is a link into the hub's cache."""
    return file.is_symlink() and os.path.basename(os.path.dirname(os.path.realpath(file))) == "blobs"


def _is_sound(blob: Path) -> bool:
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return True
    key = stamp([blob])
    if key is None:
        return False
    name, known = json.dumps(key), Cache("hub-blobs")
    if name in _sound or known.get(key):
        _sound.add(name)
        return True
    if _hash(blob) != blob.name:
        return False
    if time.time_ns() - key[0][1] > SETTLED and stamp([blob]) == key:
        _sound.add(name)
        known.put(key, True)
    return True


def _hash(blob: Path) -> str:
    """SHA-256 of a large file, git's SHA-1 of a small one: what the client takes for its name."""
    if len(blob.name) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
