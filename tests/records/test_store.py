"""Records survive whatever happens to the process, the disk and the file; damaged ones are never used."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import a_record

from peftbench.errors import UsageError
from peftbench.records.record import SCHEMA_VERSION, Record
from peftbench.records.store import CorruptRecord, Store, decode, encode

RUN = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def leftovers(store: Store) -> list[str]:
    return [p.name for p in store.out_dir.rglob("*.tmp")]


def test_a_record_comes_back_as_it_was(store: Store, make_record: Callable[..., Record]) -> None:
    record = make_record()
    path = store.save(record)
    assert store.load(RUN) == record
    assert store.all() == [record]
    assert json.loads(path.read_text())["score"] == record.score
    assert leftovers(store) == []


def test_no_record_is_none(store: Store) -> None:
    assert store.load(RUN) is None
    assert store.all() == []
    assert not store.out_dir.exists()


def test_numbers_json_does_not_know(store: Store, make_record: Callable[..., Record]) -> None:
    curves = {"loss": [1.0, float("nan"), float("inf")], "step": list(np.arange(2))}
    store.save(make_record(status="diverged", curves=curves, score=np.float64(1.5), draw={"counts": {3: np.int64(4)}}))
    loaded = store.load(RUN)
    assert loaded is not None
    assert loaded.curves == {"loss": [1.0, None, None], "step": [0, 1]}
    assert loaded.score == 1.5
    assert loaded.draw == {"counts": {"3": 4}}
    assert "NaN" not in store.path(RUN).read_text()


def test_all_is_oldest_first(store: Store, make_record: Callable[..., Record]) -> None:
    for day, run_id in ((3, "aa"), (1, "cc"), (2, "bb")):
        store.save(make_record(run_id, created=f"2026-11-0{day}T00:00:00+00:00"))
    assert [r.run_id for r in store.all()] == ["cc", "bb", "aa"]


# --- damage


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_seen(data: st.DataObject) -> None:
    good = encode(a_record(curves={}))
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(CorruptRecord):
        decode(bytes(bad), RUN)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "binary", "other_run", "appended"])
def test_a_damaged_record_goes_to_quarantine_with_one_warning(
    store: Store, make_record: Callable[..., Record], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path, good = store.save(make_record()), encode(make_record())
    other = store.save(make_record("feed"))
    damaged = {
        "truncated": good[: len(good) // 2],
        "flipped": good.replace(b"82.93708474831107", b"92.93708474831107"),
        "empty": b"",
        "binary": random.Random(0).randbytes(500),
        "other_run": other.read_bytes(),
        "appended": good + b" ",
    }[damage]
    assert damaged != good
    path.write_bytes(damaged)
    assert [r.run_id for r in store.all()] == ["feed"]
    assert store.load(RUN) is None
    assert not path.exists()
    assert (store.out_dir / "quarantine" / path.name).read_bytes() == damaged
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    store.save(make_record())  # the run is done again
    path.write_bytes(damaged)
    assert store.load(RUN) is None
    assert len(list((store.out_dir / "quarantine").iterdir())) == 2


def test_quarantine_gives_back_what_a_writer_made_good_meanwhile(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.save(make_record())
    path.write_bytes(b"damaged")
    real = os.replace

    def slow(source: Path, target: Path) -> None:
        if "quarantine" in str(target):
            monkeypatch.setattr(os, "replace", real)
            store.save(make_record())
        real(source, target)

    monkeypatch.setattr(os, "replace", slow)
    assert store.load(RUN) is None
    assert store.load(RUN) == make_record()
    assert caplog.text == ""


def test_a_record_of_a_newer_version_is_refused_and_kept(store: Store, make_record: Callable[..., Record]) -> None:
    path = store.save(make_record(schema=SCHEMA_VERSION + 1))
    with pytest.raises(UsageError, match="newer peftbench"):
        store.load(RUN)
    assert path.exists()


def test_keys_of_a_later_minor_version_are_ignored(make_record: Callable[..., Record]) -> None:
    assert Record.from_dict({**make_record().to_dict(), "color": "blue"}) == make_record()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a.json"])
def test_only_run_ids_name_files(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="not a run id"):
        store.load(name)


# --- full disk, no permission


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_full_disk_at_each_step_of_a_save(
    store: Store,
    make_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    """The first, second ... call of a system call says that the disk is full, until a save needs no more calls."""
    real, real_write, failures = getattr(os, call), os.write, 0
    while True:
        store.save(make_record(score=1.0))
        calls = 0

        def fail_in_turn(*args: Any, _turn: int = failures + 1, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == _turn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        # a disk that is nearly full takes a part of what it is given
        monkeypatch.setattr(os, "write", lambda fd, content: real_write(fd, content[:1500]))
        monkeypatch.setattr(os, call, fail_in_turn if call != "write" else partly(fail_in_turn))
        error = None
        try:
            store.save(make_record(score=2.0))
        except UsageError as raised:
            error = str(raised)
        monkeypatch.undo()
        if calls <= failures:
            break
        failures += 1
        if (call, failures) in (
            ("open", 2),
            ("fsync", 2),
        ):  # renamed: whole, though the folder is not synced
            assert error is None
            assert f"{store.path(RUN)} is written, but a power cut" in caplog.text
            assert [r.score for r in store.all()] == [2.0]
        else:
            assert error is not None, f"{call} number {failures} failed and nobody was told"
            assert str(store.path(RUN)) in error
            assert "disk is full" in error
            assert [r.score for r in store.all()] == [1.0]
        assert leftovers(store) == []
    assert error is None
    chunks = -(-len(encode(make_record())) // 1500)
    assert failures == {"open": 2, "write": chunks, "fsync": 2, "replace": 1}[call]


def partly(write: Callable[..., int]) -> Callable[[int, bytes], int]:
    return lambda descriptor, content: write(descriptor, content[:1500])


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True).returncode
    ):
        pytest.skip("cannot mount a tmpfs here (needs root)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_really_full_disk(tmpfs: Path, make_record: Callable[..., Record]) -> None:
    store = Store(tmpfs / "results")
    saved = 0

    def fill_the_disk() -> None:
        nonlocal saved
        for number in range(1000):
            with store.claim(f"{number:016x}"):
                store.save(make_record(f"{number:016x}"))
            saved += 1

    with pytest.raises(UsageError, match=r"disk is full.*out_dir=FOLDER"):
        fill_the_disk()
    assert saved > 5
    assert len(store.all()) == saved
    assert leftovers(store) == []
    shutil.rmtree(store.out_dir / "runs", ignore_errors=True)
    store.path(f"{0:016x}").unlink()
    store.save(make_record(f"{0:016x}"))
    assert len(store.all()) == saved


def test_a_folder_that_cannot_be_made(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file" / "results")
    with pytest.raises(UsageError, match="out_dir=FOLDER"):
        store.save(make_record())
    with pytest.raises(UsageError, match="out_dir=FOLDER"), store.claim(RUN):
        pass


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store.save(make_record())
    real = os.open

    def refuse(path: object, flags: int, *args: object, **kwargs: object) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match=r"`.*results.*`: (Permission denied|Read-only).*out_dir=FOLDER"):
        store.save(make_record(score=2.0))
    with pytest.raises(UsageError, match=r"(Permission denied|Read-only).*out_dir=FOLDER"), store.claim(RUN):
        pass
    monkeypatch.undo()
    assert store.load(RUN) == make_record()


# --- claims


def test_two_claims_never_meet(store: Store) -> None:
    with store.claim(RUN) as folder:
        assert folder == store.folder(RUN)
        assert folder.is_dir()
        with pytest.raises(UsageError, match=rf"process {os.getpid()} on host \S+ since 20"), store.claim(RUN):
            pass
        with store.claim("another"):
            pass
    with store.claim(RUN):
        pass


def test_a_claim_ends_with_an_error(store: Store) -> None:
    with pytest.raises(RuntimeError), store.claim(RUN):
        raise RuntimeError("the run crashed")
    with store.claim(RUN):
        pass


HOLDER = """
import sys, time
from peftbench.records.store import Store
with Store(sys.argv[1]).claim(sys.argv[2]):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_the_claim_of_a_killed_process_is_free(store: Store) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, store.out_dir, RUN], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"process {holder.pid} "), store.claim(RUN):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.claim(RUN):
        pass


def test_supersede_keeps_the_old_result(store: Store, make_record: Callable[..., Record]) -> None:
    assert store.supersede(RUN) is None
    for number in (1, 2):
        with store.claim(RUN) as folder:
            store.supersede(RUN)
            assert list(folder.iterdir()) == []
            (folder / "predictions.jsonl").write_text(f"run {number}")
            store.save(make_record(score=float(number)))
    with store.claim(RUN):
        home = store.supersede(RUN)
    assert home is not None
    assert store.load(RUN) is None
    kept = sorted((store.out_dir / "superseded").iterdir())
    assert home == kept[1]
    assert [p.name for p in kept] == [f"{RUN}.20261121T080000", f"{RUN}.20261121T080000-2"]
    assert [decode((p / f"{RUN}.json").read_bytes(), RUN).score for p in kept] == [1.0, 2.0]
    assert [(p / "run" / "predictions.jsonl").read_text() for p in kept] == ["run 1", "run 2"]


# --- kill -9

OVERWRITER = """
import dataclasses, itertools, sys
from peftbench.files import write_atomic
from peftbench.records.store import Store, encode
store = Store(sys.argv[1])
record = store.load(sys.argv[2])
versions = [encode(dataclasses.replace(record, score=float(score))) for score in range(5)]
print("go", flush=True)
for content in itertools.cycle(versions):
    write_atomic(store.path(record.run_id), content)
"""


def kill_writers(store: Store, record: Record, kills: int) -> int:
    """Kill a process that overwrites one large record; returns how many kills fell into the middle of a write."""
    record = dataclasses.replace(record, notes=["x" * 8_000_000])  # long to write, quick to encode
    store.save(record)
    dice, torn = random.Random(0), 0
    for _ in range(kills):
        before = len(leftovers(store))
        command = [sys.executable, "-c", OVERWRITER, store.out_dir, record.run_id]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "go\n"
        time.sleep(dice.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        loaded = store.load(record.run_id)
        assert loaded is not None
        assert dataclasses.replace(loaded, score=record.score) == record
        torn += len(leftovers(store)) > before
    return torn


def test_kill_9_while_writing(store: Store, make_record: Callable[..., Record]) -> None:
    kill_writers(store, make_record(), kills=2)
    assert len(store.all()) == 1


@pytest.mark.slow
def test_kill_9_while_writing_many_times(store: Store, make_record: Callable[..., Record]) -> None:
    assert kill_writers(store, make_record(), kills=60) > 5
    assert len(store.all()) == 1
    assert not (store.out_dir / "quarantine").exists()


# --- many at once


@pytest.mark.parametrize(("writers", "each"), [(4, 3), pytest.param(12, 50, marks=pytest.mark.slow)])
def test_many_writers_and_a_reader(store: Store, writers: int, each: int) -> None:
    """Nothing lost, nothing double, nothing torn; the leaderboard equals the records in the end."""
    from peftbench.records import leaderboard

    code = (Path(__file__).parents[1] / "made_up" / "writer_process.py").as_posix()
    running = [
        subprocess.Popen([sys.executable, code, store.out_dir, str(number), str(each)]) for number in range(writers)
    ]
    path, seen = store.out_dir / "leaderboard.csv", 0
    while any(p.poll() is None for p in running):
        assert all(r.status == "done" for r in store.all())
        assert all(holder.alive and holder.host != "unknown" for holder in store.holders().values())
        if path.exists():
            lines = path.read_bytes().split(b"\r\n")
            assert lines[-1] == b""
            assert len({line.count(b",") for line in lines[:-1]}) == 1
            assert len(lines) >= seen
            seen = len(lines)
        time.sleep(0.05)
    assert [p.returncode for p in running] == [0] * writers
    records = store.all()
    assert sorted(r.run_id for r in records) == sorted(f"{w:04x}{i:04x}" for w in range(writers) for i in range(each))
    assert path.read_bytes() == leaderboard.to_csv(leaderboard.rows(records))
    assert leftovers(store) == []
    assert list(store.claims.glob("*")) == []
    assert not (store.out_dir / "quarantine").exists()
