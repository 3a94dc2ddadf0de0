"""Checkpoints of a training in progress: safetensors and JSON in a folder that appears whole or not at all.

`checkpoint-<step>/` holds `tensors.safetensors`, `state.json` and `SHA256SUMS` (the format of `sha256sum -c`). The
newest two are kept: a machine may die while it writes, and a disk may damage what was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

TENSORS, STATE, SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"
KEEP = 2


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the checkpoint of `step`, durably and at once, and drop all but the newest `KEEP`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"checkpoint-{step:08d}"
    draft = folder / f"draft-{step:08d}"
    for stale in (draft, final):
        shutil.rmtree(stale, ignore_errors=True)
    draft.mkdir()
    save_file(dict(tensors), draft / TENSORS)
    (draft / STATE).write_text(json.dumps(state), encoding="utf-8")
    (draft / SUMS).write_text("".join(f"{_sha256(draft / n)}  {n}\n" for n in (TENSORS, STATE)), encoding="utf-8")
    for path in (draft / TENSORS, draft / STATE, draft / SUMS, draft):
        _fsync(path)
    draft.rename(final)
    _fsync(folder)
    for old in _checkpoints(folder)[KEEP:]:
        shutil.rmtree(old)


def load(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of the checkpoint `name` (from `newest`)."""
    return load_file(folder / name / TENSORS), json.loads((folder / name / STATE).read_text(encoding="utf-8"))


def newest(folder: Path) -> str | None:
    """Name of the newest checkpoint whose bytes are those that were written, or None. Damaged ones are reported."""
    for path in _checkpoints(folder):
        problem = _damage(path)
        if problem is None:
            return path.name
        log.warning("checkpoint %s is damaged (%s); falling back to the one before", path, problem)
    return None


def clear(folder: Path) -> None:
    """Remove the checkpoints in `folder`, and the folder if nothing else is in it: the training's result is safe."""
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
