"""Rows of records that have not changed, kept so that each record is decoded once.

`.leaderboard.json` is a head line (version, signature of the records seen, checksum of the rest) and then a line a
record: its stamp, a tab, its row. Lines of unchanged records are copied without being parsed. The file may be deleted
at any time, and a damaged one is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from peftbench.files import read_file, write_atomic
from peftbench.records.record import Record
from peftbench.records.store import Store

Row = dict[str, Any]
Stamps = dict[str, bytes]
"""File name of a record -> the name and what else changes when the record does."""
Lines = dict[bytes, bytes]
"""Stamp of a record -> its row as JSON."""

_NAME = ".leaderboard.json"
_VERSION = 7
"""Raised when a row gets another content."""


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
        found[name] = f"{name} {stat.st_mtime_ns} {stat.st_size} {stat.st_ino}".encode("utf-8", "surrogateescape")
    return found


def newest(stamped: Stamps, limit: int) -> Stamps:
    """Of these stamps those of the records that were written last."""
    if len(stamped) <= limit:
        return stamped
    by_time = sorted(stamped.items(), key=lambda item: int(item[1].split()[-3]), reverse=True)
    return dict(by_time[:limit])


def signature(stamped: Stamps) -> str:
    """What tells one state of the records from any other."""
    return hashlib.sha256(b"\n".join(sorted(stamped.values()))).hexdigest()


def lines(store: Store, stamped: Stamps, make: Callable[[Record], Row]) -> Lines:
    """The line of each of these records: from the cache, or of what `make` gives for a record that it lacks."""
    cached = _read(store)
    found = {}
    for name, stamp in stamped.items():
        line = cached.get(stamp)
        if line is None:
            record = store.read(store.records / name)
            if record is None:
                continue
            line = json.dumps(make(record)).encode()
        found[stamp] = line
    return found


def write(store: Store, found: Lines, stamped: Stamps) -> None:
    """Keep these lines, of all sound ones among the records with these stamps, for the next time."""
    body = b"".join(b"%s\t%s\n" % line for line in found.items())
    head = {"version": _VERSION, "signature": signature(stamped), "sha256": hashlib.sha256(body).hexdigest()}
    write_atomic(store.out_dir / _NAME, json.dumps(head).encode() + b"\n" + body, durable=False)


def seen(store: Store) -> str | None:
    """Signature of the records that the cache was written from; None if there is no cache to use."""
    try:
        head = json.loads(read_file(store.out_dir / _NAME).partition(b"\n")[0])
        return head["signature"] if head["version"] == _VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(store: Store) -> Lines:
    try:
        head, _, body = read_file(store.out_dir / _NAME).partition(b"\n")
        facts = json.loads(head)
        if facts["version"] != _VERSION or facts["sha256"] != hashlib.sha256(body).hexdigest():
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    cut = (line.partition(b"\t") for line in body.split(b"\n"))
    return {stamp: row for stamp, tab, row in cut if tab}
