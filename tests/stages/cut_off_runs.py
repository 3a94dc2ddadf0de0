"""A death in the middle of a training, for tests of what the next attempt goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peftbench import session
from peftbench.training import loop


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the session's own endings may run."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, part: str, step: int) -> Iterator[None]:
    """Die in the 0-based `step` of the training whose folder ends in `part`."""
    real, resume, folders = loop._Engine.step, loop.resume, [""]

    def look(folder: Path, *args: Any) -> Any:
        folders.append(folder.as_posix())
        return resume(folder, *args)

    def die(engine: Any, at: int) -> Any:
        if folders[-1].endswith(f"/{part}") and at == step:
            raise Killed
        return real(engine, at)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "resume", look)
        patch.setattr(loop._Engine, "step", die)
        patch.setattr(session.Session, "_file_failure", lambda *_: None)
        yield
