"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

A checkpoint holds `tensors.safetensors`, `state.json` and `SHA256SUMS` (the format of `sha256sum -c`). Those of a
training in progress are `checkpoint-<step>/`; the newest two are kept: a machine may die while it writes, and a disk
may damage what was written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftbench.files import persist, readable_errors

log = logging.getLogger(__name__)

TENSORS, STATE, SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"
KEEP = 2

Check = Callable[[], None]


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], check: Check = lambda: None
) -> None:
    """Write the checkpoint of `step` and drop all but the newest `KEEP`. Raises what `write` does."""
    write(folder / f"checkpoint-{step:08d}", tensors, state, check)
    for old in _checkpoints(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], check: Check = lambda: None) -> None:
    """Write a checkpoint, durably and at once.

    Args:
        check: called before the first byte and before the renaming; raises if the run is not this process's any more.

    Raises:
        StorageError: the folder cannot be written or the disk is full; earlier checkpoints are intact.
    """
    check()
    with readable_errors("write the checkpoint", path):
        persist(partial(_write, path, tensors, state, check))


def _write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], check: Check) -> None:
    """Into a place of its own, then to where it belongs."""
    draft = path.with_name(f"draft-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with _removed_on_error(draft), _system_errors():
        draft.mkdir(parents=True)
        save_file(dict(tensors), draft / TENSORS)
        (draft / STATE).write_text(json.dumps(state), encoding="utf-8")
        (draft / SUMS).write_text("".join(f"{_sha256(draft / n)}  {n}\n" for n in (TENSORS, STATE)), encoding="utf-8")
        for each in (draft / TENSORS, draft / STATE, draft / SUMS, draft):
            _fsync(each)
        check()
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
        _fsync(path.parent)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of the checkpoint at `path`, one that is `sound`."""
    return load_file(path / TENSORS), json.loads((path / STATE).read_text(encoding="utf-8"))


def newest(folder: Path) -> str | None:
    """Name of the newest sound checkpoint of a training in progress, or None."""
    return next((path.name for path in _checkpoints(folder) if sound(path)), None)


def sound(path: Path) -> bool:
    """Whether there is a checkpoint whose bytes are those that were written. A damaged one is reported."""
    if not path.is_dir():
        return False
    problem = _damage(path)
    if problem is not None:
        log.warning("checkpoint %s is damaged (%s); falling back to the one before", path, problem)
    return problem is None


def remove(path: Path) -> None:
    """Remove one that cannot be used."""
    with readable_errors("remove the checkpoint", path):
        shutil.rmtree(path)


def clear(folder: Path) -> None:
    """Remove the checkpoints of a training, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    for path in [*folder.glob("checkpoint-*"), *folder.glob("draft-*")]:
        shutil.rmtree(path)
    if not any(folder.iterdir()):
        folder.rmdir()


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*"), reverse=True)


def _damage(path: Path) -> str | None:
    try:
        sums = dict(line.split("  ")[::-1] for line in (path / SUMS).read_text(encoding="utf-8").splitlines())
        if sums.keys() != {TENSORS, STATE}:
            return f"{SUMS} names {sorted(sums)}"
        wrong = [name for name, digest in sums.items() if _sha256(path / name) != digest]
    except (OSError, ValueError) as error:
        return str(error)
    return f"{', '.join(wrong)}: wrong checksum" if wrong else None


@contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """`readable_errors` for a block that writes safetensors, whose errors have the system's as text only."""
    with readable_errors(doing, path), _system_errors():
        yield


@contextmanager
def _system_errors() -> Iterator[None]:
    """The OSError that an error of safetensors stands for."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


@contextmanager
def _removed_on_error(draft: Path) -> Iterator[None]:
    """Leave no part of a checkpoint behind on a disk that may be full."""
    try:
        yield
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
