"""How much memory this machine has. Asks the system, not torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
GPU_SECONDS = 5
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Machine:
    """MiB that a run can have here; None where nobody knows or nothing is there."""

    memory_mib: float | None
    gpu_mib: float | None


def this_machine() -> Machine:
    """What the system says."""
    return Machine(memory_mib(), gpu_mib())


def memory_mib() -> float | None:
    """Main memory, or what a container's limit leaves of it."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
    except (ValueError, OSError):
        return None
    for path in LIMITS:
        try:
            found = min(found, int(Path(path).read_text(encoding="ascii")) / MIB)
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return found


def gpu_mib() -> float | None:
    """Memory of the smallest GPU, from nvidia-smi."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=GPU_SECONDS, check=True)
        return min(float(line) for line in answer.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
