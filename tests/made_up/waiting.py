"""Waiting for another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(what: Callable[[], Any], seconds: float = 600) -> Any:
    """Wait for something to come true; what it came to."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.1)
    return found
