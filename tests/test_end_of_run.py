"""The end of a run, when the disk fails or another process has taken the run over: nothing trained is lost or mixed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_up_configs import compose

from peftbench import files, runner
from peftbench.config.schema import RunConfig
from peftbench.inputs import InputCache
from peftbench.records import leaderboard, leases
from peftbench.records.leases import LeaseLost
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run

COMMON = ["task=demo_news", "shots=2", "tracking.wandb=disabled", "trainer.device=cpu"]
FLOOR = [*COMMON, "method=majority"]
TRAINED = [*COMMON, "method=lora", "model=tiny-bert", "trainer=debug", "trainer.steps=3"]
CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "utime")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0))


def config(folder: Path, *args: str) -> RunConfig:
    return compose([*args, f"out_dir={folder}"])


@contextmanager
def failing(number: int, code: int, times: int = 1) -> Iterator[list[int]]:
    """Every system call that changes the disk is counted in the list; from the `number`-th, from 1, some fail."""
    calls, real = [0], {name: getattr(os, name) for name in CALLS}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR)
            if writes and "wandb" not in str(args[0]):
                calls[0] += 1
                if number <= calls[0] < number + times:
                    raise OSError(code, os.strerror(code))
            return real[name](*args, **kwargs)

        return call

    try:
        for name in CALLS:
            setattr(os, name, wrapped(name))
        yield calls
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def end_failing(
    monkeypatch: pytest.MonkeyPatch,
    cfg: RunConfig,
    number: int,
    code: int,
    times: int,
    inputs: InputCache | None = None,
) -> tuple[Record | None, int]:
    """Run, with a disk that fails at its end: the record, or None if the run could not be filed, and the calls."""
    counted = [0]
    real = runner.keep

    def keep(*args: Any) -> None:
        nonlocal counted
        with failing(number, code, times) as counted:
            real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "keep", keep)
        try:
            return run(cfg, inputs)[0], counted[0]
        except files.StorageError:
            return None, counted[0]


def same(one: Record | None, other: Record | None) -> bool:
    names = ("status", "score", "scores", "dev_score", "curves", "predictions")
    return one is not None and other is not None and all(getattr(one, n) == getattr(other, n) for n in names)


def sound(folder: Path) -> None:
    """One record, its predictions beside it, and no draft of anything."""
    store = Store(folder)
    (record,) = store.all()
    assert (store.folder(record.run_id) / "predictions.jsonl").exists()
    assert not list(folder.rglob("draft-*"))
    assert not list(folder.rglob("*.tmp"))


def check_every(monkeypatch: pytest.MonkeyPatch, home: Path, code: int, times: int, stride: int) -> None:
    """The disk fails at the first write of the end, the one `stride` later ... up to the last."""
    inputs = InputCache()
    whole, calls = end_failing(monkeypatch, config(home / "whole", *FLOOR), 10**6, code, 1, inputs)
    assert calls > 10
    for number in range(1, calls + 1, stride):
        folder = home / str(number)
        cfg = config(folder, *FLOOR)
        record, _ = end_failing(monkeypatch, cfg, number, code, times, inputs)
        if code != errno.ENOSPC:
            assert same(record, whole), f"call {number}"
        again, is_new = run(cfg, inputs)
        assert same(again, whole)
        assert record is None or not is_new
        sound(folder)


@pytest.mark.parametrize(("code", "times", "stride"), [(errno.EIO, 1, 13), (errno.ENOSPC, 999, 27)])
def test_the_disk_fails_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, times: int, stride: int
) -> None:
    """What passes is tried again; what does not is one message, and the same command files the run."""
    check_every(monkeypatch, tmp_path, code, times, stride)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 999])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOSPC])
def test_the_disk_fails_at_any_write_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, times: int
) -> None:
    check_every(monkeypatch, tmp_path, code if times < 999 else errno.ENOSPC, times, 1)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOSPC])
def test_nothing_is_trained_again_after_the_disk_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    whole, calls = end_failing(monkeypatch, config(tmp_path / "whole", *TRAINED), 10**6, code, 1)
    for number in range(1, calls + 1):
        check_not_trained_again(monkeypatch, tmp_path / str(number), number, code, whole)


@pytest.mark.slow
def test_a_full_disk_at_the_record_leaves_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = end_failing(monkeypatch, config(tmp_path / "whole", *TRAINED), 10**6, errno.ENOSPC, 1)
    check_not_trained_again(monkeypatch, tmp_path / "middle", calls // 2, errno.ENOSPC, whole)


def check_not_trained_again(
    monkeypatch: pytest.MonkeyPatch, folder: Path, number: int, code: int, whole: Record | None
) -> None:
    from peftbench.training import loop

    cfg = config(folder, *TRAINED)
    record, _ = end_failing(monkeypatch, cfg, number, code, 1)
    with monkeypatch.context() as patch:
        patch.setattr(loop._Engine, "step", lambda *_: pytest.fail("a step was trained again"))
        again, _ = run(cfg)
    assert same(again, whole), f"call {number}"
    assert record is not None or again.compute["attempts"] == 2  # type: ignore[union-attr]
    sound(folder)
    assert not list(folder.glob("runs/*/stages"))


def test_a_known_run_brings_the_leaderboard_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who filed it may have been killed before the table was made."""
    cfg, table = config(tmp_path, *FLOOR), tmp_path / "leaderboard.csv"
    with monkeypatch.context() as patch:
        patch.setattr(leaderboard, "refresh", lambda store: None)
        record, _ = run(cfg)
    assert record is not None
    assert not table.exists()
    again, is_new = run(cfg)
    assert same(again, record)
    assert not is_new
    assert table.read_bytes() == leaderboard.to_csv(leaderboard.rows([record]))


def test_a_folder_that_cannot_be_synced_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The renaming is done by then: every reader sees the new file, so it may not be called unwritten."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_folder", lambda folder: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        files.write_atomic(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert "power cut" in caplog.text


@pytest.mark.parametrize("moment", ["evaluate", "keep", "write_predictions"])
def test_who_lost_its_claim_leaves_the_winners_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Another machine takes the run over, whatever this process does at that moment, and has filed it."""
    from peftbench.records import predictions

    monkeypatch.setattr(leases, "BEATS", 0.001)  # no sign of life between the lines below, however slow they are
    cfg, winner, taken = config(tmp_path, *FLOOR), Store(tmp_path), []
    place = predictions if moment == "write_predictions" else runner
    real = getattr(place, moment)

    def taken_over(*args: Any, **kwargs: Any) -> Any:
        if not taken:
            (claim,) = winner.claims.glob("*.json")
            old = claim.stat().st_mtime - 2 * leases.LEASE_SECONDS
            os.utime(claim, (old, old))
            monkeypatch.setattr(leases, "machine", lambda: "another")
            run_id = claim.name.partition(".")[0]
            taken.append(winner.claim(run_id))
            folder = taken[0].__enter__()
            for name in ("predictions.jsonl", "progress.json", "draw.json"):
                (folder / name).write_text("the winner's")
        return real(*args, **kwargs)

    monkeypatch.setattr(place, moment, taken_over)
    with pytest.raises(LeaseLost, match="Nothing more was written"):
        run(cfg)
    (folder,) = tmp_path.glob("runs/*")
    assert {p.name: p.read_text() for p in folder.iterdir() if p.name != "attempts.json"} == dict.fromkeys(
        ("predictions.jsonl", "progress.json", "draw.json"), "the winner's"
    )
    assert winner.all() == []
    assert len(list(winner.claims.glob("*.json"))) == 1
    taken[0].__exit__(None, None, None)


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    files.replace_with(tmp_path / "old", tmp_path / "new")
    files.replace_with(tmp_path / "old", tmp_path / "new")  # again, as after an error
    assert (tmp_path / "old" / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
