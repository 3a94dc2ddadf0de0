"""Files that are either whole or not there, whatever kills the process that writes them."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from peftbench.errors import UsageError

log = logging.getLogger(__name__)

T = TypeVar("T")

_WAY_OUT = {
    errno.ENOSPC: "The disk is full: free some space",
    errno.EDQUOT: "Your disk quota is used up: free some space",
    errno.EROFS: "The file system is read-only: mount it for writing",
    errno.EACCES: "You have no permission for it: change the permission",
    errno.EPERM: "You have no permission for it: change the permission",
    errno.ENOTDIR: "A part of this path is a file, not a folder: remove it",
    errno.EEXIST: "A file stands where a folder is needed: remove it",
}


PASSING = frozenset({errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.EREMOTEIO})
"""What a network file system answers while it has lost its server for a moment."""
PAUSES = (0.2, 1.0, 5.0)
"""Seconds before each further try."""


class StorageError(UsageError):
    """The file system refused; neither the command nor the config is wrong. The same command goes on from what is
    kept."""


@contextmanager
def readable_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that says what was being done, where, and the way out."""
    try:
        yield
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else str(error)
        way_out = _WAY_OUT.get(error.errno or 0, "Check the disk")
        raise StorageError(
            f"Cannot {doing} `{path}`: {cause}. {way_out}, or choose another folder with `out_dir=FOLDER`, "
            "then give the same command again. Results written before are untouched."
        ) from error


_NO_FILES = {errno.EISDIR: "a folder", errno.ELOOP: "a ring of links", errno.ENXIO: "a socket or a device"}


def persist(write: Callable[[], T]) -> T:
    """`write()`, tried again a few times after errors that may pass. It must be able to start anew.

    Raises:
        OSError: one that does not pass (a full disk, no permission), or that came each time.
    """
    for pause in PAUSES:
        try:
            return write()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            log.warning("%s; trying again", error)
            time.sleep(pause)
    return write()


def again(make: Callable[[], T]) -> T:
    """`make()`, which makes the folder that it writes to; anew where the folder went in between. A command that was
    refused takes its empty ones away (`Store.claim`), perhaps while another begins in the same place."""
    for _ in PAUSES:
        with suppress(FileNotFoundError):
            return make()
    return make()


class NotAFile(OSError):
    """A folder, named pipe, device or ring of links stands where a file is looked for."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def open_file(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file, for reading its bytes. Anything else that has its name is refused, and never waited for: opening
    a named pipe lasts until somebody writes, and a device may have no end.

    Raises:
        NotAFile: it is no regular file, nor a link to one.
        OSError: it is not there or cannot be read.
    """
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        if error.errno in _NO_FILES:
            raise NotAFile(error.errno, f"it is {_NO_FILES[error.errno]}, no file") from error
        raise
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotAFile(errno.EINVAL, "it is a named pipe or a device, no file")
        yield file


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file; raises as `open_file`."""
    with open_file(path) as file:
        return file.read()


def check_place(key: str, place: object) -> None:
    """Raises UsageError if a path or another text that gets into scripts and messages has control characters in it."""
    if not str(place).isprintable():
        raise UsageError(
            f"{key}={str(place)!r}: has a control character in it, which no shell script may get to read. Take it out."
        )


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; there is no more that one could do there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def replace_with(path: Path, new: Path) -> None:
    """Put the file or folder `new` in the place of `path`, on the same file system. A folder that stands there is moved
    aside first; can be called again after an error. Raises OSError."""
    if not os.path.lexists(new):
        return  # an earlier call got so far
    if path.is_dir() and not path.is_symlink():
        aside = path.with_name(f"draft-{path.name}-{secrets.token_hex(4)}")
        os.replace(path, aside)
        shutil.rmtree(aside, ignore_errors=True)
    os.replace(new, path)


def write_atomic(path: Path, content: bytes, durable: bool = True, check: Callable[[], None] = lambda: None) -> None:
    """Write `content` to `path` so that any reader, now or after a crash, sees the old file or the new one whole.

    The bytes go to a hidden temporary file in the same folder, which then takes the place of `path`. A process that is
    killed in between leaves only that temporary file, which nobody reads. `durable=False` leaves out the two fsyncs and
    the further tries after an error, for files that can be made again. `check` is called just before the renaming and
    may raise.

    Raises:
        StorageError: the folder cannot be written or the disk is full; `path` is as it was.
    """
    with readable_errors("write", path):
        if path.is_char_device():  # /dev/null, /dev/stdout: written to, and never put out of its place
            path.write_bytes(content)
            return
        write = partial(_write_and_rename, path, content, durable, check)
        persist(write) if durable else write()
    if durable:
        _keep_name(path)


def _write_and_rename(path: Path, content: bytes, durable: bool, check: Callable[[], None]) -> None:
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        again(partial(_write_all, temporary, content, durable))
        check()
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _keep_name(path: Path) -> None:
    """Make the renaming survive a power cut. Where that fails, readers see the new file all the same, so nobody may
    be told that it was not written."""
    try:
        persist(partial(sync_folder, path.parent))
    except OSError as error:
        log.warning("%s is written, but a power cut in the next seconds could still take it back (%s).", path, error)


def _write_all(path: Path, content: bytes, durable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
