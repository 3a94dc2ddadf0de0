"""What is made once on a machine and used by every later command: converted weights, and values that were slow to find.

Everything here may be lost or deleted at any time, and costs time alone when it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftbench.errors import UsageError

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")


def cache_dir() -> Path:
    """The folder for what can be made again: `PEFTBENCH_CACHE`, else `~/.cache/peftbench`. It may not exist yet."""
    return Path(os.environ.get("PEFTBENCH_CACHE") or Path.home() / ".cache" / "peftbench")


def build_once(name: str, build: Callable[[Path], None], kind: str = "models", what: str = "") -> Path:
    """The cache folder `KIND/NAME` of `what` (converted weights), filled by `build(folder)` if it is not there yet.

    It appears under its name only when complete: it is filled beside it and renamed, under a lock, so neither a
    killed process nor a parallel sweep leaves half a folder.
    """
    from filelock import FileLock

    final = cache_dir() / kind / name
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
            f"cannot write {what or f'the converted weights of {name}'} to {final.parent}: {error}. "
            "Set the environment variable PEFTBENCH_CACHE to a writable folder with free space."
        ) from error
    return final


LIMIT = 512 * 2**20
"""Bytes of values of one kind; the oldest go when there are more."""
PATIENCE = 5.0
"""Seconds to wait for another process that writes; after that a value is not kept."""


class Cache:
    """Values of one kind, kept for later commands.

    A key is everything that its value depends on, as JSON can hold it. A value is plain JSON or a numpy array; there
    is no value None. Many processes may read and write at once. A folder that cannot be written, another's lock that
    does not go away and damage are as if nothing had been kept; what is damaged is set aside.

    Args:
        kind: values of different kinds never meet, and each kind has room of its own (`LIMIT`).
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def get(self, key: Any) -> Any:
        """The value of this key, None if there is none."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[Any]) -> list[Any]:
        """`get` of each key."""
        names = [self._name(key) for key in keys]
        known = _read(names)
        return [_decode(known[name]) if name in known else None for name in names]

    def put(self, key: Any, value: Any) -> None:
        """Keep a value. What would come back as another one (a tuple, keys that are no text) is not kept."""
        self.put_many([(key, value)])

    def put_many(self, values: Iterable[tuple[Any, Any]]) -> None:
        """`put` of each key and value."""
        coded = {self._name(key): _encode(value) for key, value in values}
        _write(self._kind, {name: value for name, value in coded.items() if value is not None})

    def once(self, key: Any, compute: Callable[[], T], keep: Callable[[], bool] = lambda: True) -> T:
        """What is known under `key`, or else `compute()`, which is kept if `keep()` says so afterwards."""
        known: T | None = self.get(key)
        if known is not None:
            return known
        made = compute()
        if keep():
            self.put(key, made)
        return made

    def fill(self, keys: Sequence[Any], compute: Callable[[list[int]], Iterable[Any]]) -> list[Any]:
        """The values of all keys, those that are missing computed: each once, whatever other processes do meanwhile.

        Args:
            compute: gets the indices of distinct keys without a value; gives their values in that order. While it
                works, another process that lacks the same values waits for them.
        """
        found = self.get_many(keys)
        if all(value is not None for value in found):
            return found
        with _alone(b"".join(self._name(key) for key, value in zip(keys, found, strict=True) if value is None)):
            found = self.get_many(keys)
            first = {self._name(key): i for i, key in reversed([*enumerate(keys)]) if found[i] is None}
            missing = sorted(first.values())
            made = dict(zip(missing, compute(missing) if missing else (), strict=True))
            self.put_many((keys[i], value) for i, value in made.items())
        return [made[first[self._name(key)]] if v is None else v for key, v in zip(keys, found, strict=True)]

    def _name(self, key: Any) -> bytes:
        return hashlib.sha256(json.dumps([self._kind, key]).encode()).digest()[:16]


def _encode(value: Any) -> str | bytes | None:
    """JSON as text, an array as a safetensors file; None for what neither gives back as it was."""
    if _is_plain(value):
        return None if value is None else json.dumps(value)
    import numpy as np
    from safetensors.numpy import save

    return save({"": np.ascontiguousarray(value)}) if isinstance(value, np.ndarray) else None


def _decode(coded: str | bytes) -> Any:
    if isinstance(coded, str):
        return json.loads(coded)
    from safetensors.numpy import load

    return load(coded)[""]


def _is_plain(value: Any) -> bool:
    """Whether JSON gives it back as it is."""
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(v) for key, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


# One SQLite file for all kinds


_TABLE = """
CREATE TABLE IF NOT EXISTS entry
  (number INTEGER PRIMARY KEY, kind TEXT, name BLOB UNIQUE, size INTEGER, sum BLOB, value);
CREATE INDEX IF NOT EXISTS entry_of_kind ON entry (kind, number, size);
"""
_OLDEST = """
DELETE FROM entry WHERE number IN (
  SELECT number FROM (SELECT number, SUM(size) OVER (ORDER BY number DESC) AS newer FROM entry WHERE kind = ?)
  WHERE newer > ?)
"""
_CHUNK = 500
_open = threading.local()
_unchecked: dict[str, int] = {}
"""Kind -> bytes that this process has written since it last looked how many there are."""


def _read(names: Sequence[bytes]) -> dict[bytes, str | bytes]:
    """The sound ones of these entries."""

    def ask(database: sqlite3.Connection) -> dict[bytes, str | bytes]:
        found: dict[bytes, str | bytes] = {}
        for start in range(0, len(names), _CHUNK):
            part = names[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            rows = database.execute(f"SELECT name, sum, value FROM entry WHERE name IN ({marks})", part)
            found |= {name: value for name, total, value in rows if total == _sum(value)}
        return found

    return _ask(ask, {}) if names else {}


def _write(kind: str, values: dict[bytes, str | bytes]) -> None:
    rows = [(kind, name, len(value), _sum(value), value) for name, value in values.items()]
    size = sum(length for _, _, length, _, _ in rows)

    def ask(database: sqlite3.Connection) -> None:
        unchecked = _unchecked.get(kind, LIMIT) + size
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT OR REPLACE INTO entry (kind, name, size, sum, value) VALUES (?,?,?,?,?)", rows)
            if unchecked > LIMIT // 10:
                (total,) = database.execute("SELECT SUM(size) FROM entry WHERE kind = ?", [kind]).fetchone()
                if total > LIMIT:
                    database.execute(_OLDEST, [kind, LIMIT - LIMIT // 10])
                unchecked = 0
        _unchecked[kind] = unchecked

    if values:
        _ask(ask, None)


def _sum(value: str | bytes) -> bytes:
    """SQLite does not see a bit that fell over in a value."""
    return hashlib.blake2b(value.encode() if isinstance(value, str) else value, digest_size=8).digest()


def _ask(ask: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
    """What the database says, or `otherwise` if it says nothing: there is always a way without it."""
    path = cache_dir() / "values-1.sqlite"
    try:
        import sqlite3
    except ImportError:  # a Python that was built without it
        return otherwise
    try:
        return ask(_connection(path))
    except (sqlite3.OperationalError, OSError):  # locked, full, read-only, taken away
        _forget_connection()
    except sqlite3.DatabaseError:  # no database, or a damaged one: the next call begins a new one
        _forget_connection()
        with suppress(OSError):
            path.replace(path.with_suffix(".damaged"))
    return otherwise


def _connection(path: Path) -> sqlite3.Connection:
    """One a thread. After a fork the parent's is left as it is, for closing it would let go of the parent's locks."""
    place = (os.getpid(), path)
    if getattr(_open, "place", None) != place:
        import sqlite3

        _forget_connection()
        path.parent.mkdir(parents=True, exist_ok=True)
        _open.place, _open.database = place, sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        # what a power cut costs is lost, or found to be damaged
        _open.database.executescript(f"PRAGMA synchronous=OFF;{_TABLE}")
    database: sqlite3.Connection = _open.database
    return database


def _forget_connection() -> None:
    if hasattr(_open, "place"):
        if _open.place[0] == os.getpid():
            _open.database.close()
        else:
            _open.inherited = _open.database
        del _open.place, _open.database


@contextmanager
def _alone(work: bytes) -> Iterator[None]:
    """At most one process of the machine does the same work; where there are no locks, each does it."""
    from filelock import FileLock

    place = cache_dir() / "locks" / f"{hashlib.sha256(work).hexdigest()[:2]}.lock"
    lock = FileLock(place)
    with suppress(OSError, NotImplementedError):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


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
