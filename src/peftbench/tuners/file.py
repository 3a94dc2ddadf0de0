"""`method=file`: a tuner in a Python file of the user's, named by its path and its hash."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from peftbench.config.registry import sha256
from peftbench.config.schema import TunerConfig, packaged
from peftbench.errors import UsageError
from peftbench.tuners.base import TunerDeclaration


@packaged("method/tuner/file")
@dataclass
class FileOptions(TunerConfig):
    """A tuner in a Python file of the user's. `sha256` is that of the file, so that an edited file is another run."""

    file: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = MISSING


def settle(cfg: FileOptions) -> None:
    """Put in absolute path and SHA-256 of the file.

    Raises:
        UsageError: there is no such file, or it is not the one that the run began with.
    """
    path = Path(cfg.file).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"method.tuner.file={cfg.file}: no such file.")
    digest = sha256(path)
    if cfg.sha256 not in (None, digest):
        raise UsageError(f"method.tuner.file={cfg.file}: was edited since this run began. Start it again.")
    cfg.file, cfg.sha256 = str(path), digest


TUNER = TunerDeclaration("peftbench.tuners.user_file:tuner_from_config", options=FileOptions, settle=settle)
