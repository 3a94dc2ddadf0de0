"""Small whole runs with all their files, and a death in the middle of one, for tests of what the next attempt goes on
from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_up_configs import compose

from peftbench import session
from peftbench.inputs import InputCache
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.training import loop

FAST = (
    "model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2", "trainer.device=cpu",
    "trainer.probe=false", "trainer.max_length=24", "protocol.dev=none", "trainer.save=all",
)  # fmt: skip


def finish(folder: Path, *overrides: str, inputs: InputCache | None = None) -> tuple[Record, dict[str, bytes]]:
    """The record of a run of `FAST` with these overrides, and its files."""
    record, _ = run(compose([*FAST, f"out_dir={folder}", *overrides]), inputs)
    assert record is not None
    assert record.status == "done", record.reason
    home = Store(folder).folder(record.run_id)
    return record, {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.is_file()}


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
