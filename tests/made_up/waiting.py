"""Waiting for another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def until(what: Callable[[], Any], seconds: float = 600) -> Any:
    """Wait for something to come true; what it came to."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.1)
    return found


def works(pid: int) -> bool:
    """Whether there is such a process, and not only its entry in the table, which stays until its parent has read it
    (an orphan's until init does)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def until_idle(pid: int, looks: int = 10) -> None:
    """Wait until all threads of a process wait for something, at so many looks in a row."""

    def waits() -> bool:
        try:
            threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
            seen.append(all(text.rpartition(") ")[2][0] in "SZ" for text in threads))
        except OSError:  # one has just ended
            seen.append(False)
        return len(seen) >= looks and all(seen[-looks:])

    seen: list[bool] = []
    until(waits)
