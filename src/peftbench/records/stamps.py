"""What tells one state of the records' files from any other, without reading them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from peftbench.records.store import Store

Stamps = dict[str, str]
"""File name of a record -> the name and what else changes when the record does."""


def stamps(store: Store) -> Stamps:
    """Stamps of all records there are."""
    return _stamped((entry.name, entry.path) for entry in store.scan())


def stamps_of(store: Store, run_ids: Iterable[str]) -> Stamps:
    """Stamps of the records of these runs; a run without a record has none."""
    return _stamped((f"{run_id}.json", str(store.path(run_id))) for run_id in run_ids)


def _stamped(files: Iterable[tuple[str, str]]) -> Stamps:
    """The inode is part of a stamp: a record replaced within the clock's tick by one of equal size has another."""
    found = {}
    for name, path in files:
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            continue  # not there, or superseded or put into quarantine meanwhile
        except OSError:  # a ring of links: the reader will set it aside
            stat = os.lstat(path)
        found[name] = f"{name} {stat.st_mtime_ns} {stat.st_size} {stat.st_ino}"
    return found


def newest(stamped: Stamps, limit: int) -> Stamps:
    """Of these stamps those of the records that were written last."""
    if len(stamped) <= limit:
        return stamped
    by_time = sorted(stamped.items(), key=lambda item: int(item[1].split()[-3]), reverse=True)
    return dict(by_time[:limit])


def signature(stamped: Stamps) -> str:
    """What tells one state of the records from any other."""
    return hashlib.sha256("\n".join(sorted(stamped.values())).encode("utf-8", "surrogateescape")).hexdigest()
