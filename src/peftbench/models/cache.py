"""Things that are made once on a machine and used by every later run: decoded weights, cached embeddings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from peftbench.errors import UsageError


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
