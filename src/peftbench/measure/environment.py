"""On what a result was made: software, processor, and the state of peftbench's own code. No names of users or hosts."""

from __future__ import annotations

import copy
import hashlib
import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from peftbench.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
"""Where peftbench's own code lies."""
PACKAGES = (
    "torch", "transformers", "peft", "datasets", "evaluate", "accelerate", "tokenizers", "safetensors",
    "scikit-learn", "numpy", "scipy", "hydra-core", "omegaconf", "wandb",
)  # fmt: skip


class Processes(Protocol):
    """What is asked of the processes of a run, `peftbench.training.distributed.Dist`."""

    @property
    def device(self) -> Any:
        """The `torch.device` of this process."""

    @property
    def world(self) -> int:
        """How many processes the run has."""


def environment(dist: Processes | None = None, precision: str | None = None) -> dict[str, Any]:
    """Facts for the record.

    Args:
        dist: the processes of the run; None when the run has no backbone and so is one process on the CPU.
        precision: number format of the forward pass, as resolved.

    torch is asked only if the run has loaded it.
    """
    return {
        "device": dist.device.type if dist else "cpu",
        "n_devices": dist.world if dist else 1,
        "precision": precision,
        **copy.deepcopy(_of_process()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **_torch_facts(dist),
    }


@cache
def _of_process() -> dict[str, Any]:
    """What stays the same while a process lives, however many runs it does: the code that it has loaded and where."""
    return {
        "versions": versions(),
        **code_version(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
    }


def versions() -> dict[str, str]:
    """Versions of peftbench and of the packages that can change a result."""
    found = {"peftbench": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_hash() -> str:
    """SHA-256 of peftbench's own source files, 12 hex digits: whether two processes run the same code."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def code_version() -> dict[str, Any]:
    """`git_sha` and `dirty` (code changed since) if peftbench runs from its own git checkout, else None and None."""
    nothing = {"git_sha": None, "dirty": None}
    root = PACKAGE.parents[1]
    if PACKAGE.parent.name != "src" or not (root / ".git").exists():
        return nothing
    sha = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", "src/peftbench", "pyproject.toml")
    return nothing if sha is None or changes is None else {"git_sha": sha, "dirty": changes != ""}


def _git(root: Path, *command: str) -> str | None:
    """Output of a git command that only reads; None if git is missing or refuses."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *command],
            env={**clean, "GIT_OPTIONAL_LOCKS": "0"},  # many runs may ask at once
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def cpu_name() -> str:
    """The processor's model name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def _torch_facts(dist: Processes | None) -> dict[str, Any]:
    """Threads of a process and the GPU's name, None where they do not apply."""
    torch = sys.modules.get("torch")
    if torch is None or dist is None:
        return {"threads": None, "gpu": None}
    gpu = torch.cuda.get_device_name(dist.device) if dist.device.type == "cuda" else None
    return {"threads": torch.get_num_threads(), "gpu": gpu}
