"""Nobody works on a run that another works on, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import until, works

from peftbench.errors import UsageError
from peftbench.records import leases as claims
from peftbench.records.leases import LEASE_SECONDS, LeaseHeld, LeaseLost
from peftbench.records.record import Record
from peftbench.records.store import Store

RUN = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture(autouse=True)
def _no_beat_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long this process is held up between two lines, its heart does not beat there."""
    monkeypatch.setattr(claims, "BEATS", 0.001)


def claim_file(store: Store) -> Path:
    (path,) = store.claims.glob(f"{RUN}.*.json")
    return path


def leave(store: Store, age: float = 0.0, token: str = "f" * 16, **changes: object) -> Path:
    """A claim as somebody else would have left it, `age` seconds after the last beat."""
    path = store.claims / f"{RUN}.{token}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**claims._myself(), **changes}))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def test_who_holds_a_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    before = time.monotonic()
    assert store.holder(RUN) is None
    assert store.holders() == {}
    with store.claim(RUN):
        holder = store.holder(RUN)
        assert holder is not None
        assert (holder.pid, holder.alive, holder.slurm_job) == (os.getpid(), True, "4711")
        assert 0 <= holder.beat_age <= time.monotonic() - before + 1
        assert store.holders().keys() == {RUN}
        assert [p.name for p in store.claims.iterdir() if p.name[0] == "."] == []
        with pytest.raises(LeaseHeld, match=r"SLURM job 4711"), store.claim(RUN):
            pass
    assert store.holder(RUN) is None
    assert list(store.claims.glob("*")) == []


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({}, True),
        ({"pid": 2**22 + 1}, False),
        ({"started": "1"}, False),
        ({"started": "unknown"}, True),
        ({"machine": "elsewhere"}, True),
    ],
    ids=["this process", "no such process", "a later process of this number", "no /proc", "another machine"],
)
def test_a_fresh_claim_is_alive_unless_its_process_is_known_to_be_gone(
    store: Store, changes: dict[str, object], alive: bool
) -> None:
    path = leave(store, **changes)
    holder = store.holder(RUN)
    assert holder is not None
    assert holder.alive is alive
    if alive:
        with pytest.raises(LeaseHeld), store.claim(RUN):
            pass
        assert path.exists()
    else:
        with store.claim(RUN):
            assert not path.exists()


@pytest.mark.parametrize(("age", "alive"), [(LEASE_SECONDS * 100 - 500, True), (LEASE_SECONDS * 100 + 1, False)])
@pytest.mark.parametrize("skew", [-86400.0, 0.0, 86400.0])
def test_another_machine_is_judged_by_its_heartbeat_whatever_the_clock_here_says(
    store: Store, monkeypatch: pytest.MonkeyPatch, age: float, alive: bool, skew: float
) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", LEASE_SECONDS * 100)  # near its end, and minutes from it
    before = time.monotonic()
    leave(store, age, machine="elsewhere", host="node7", pid=1)
    now = time.time() + skew
    monkeypatch.setattr(time, "time", lambda: now)
    holder = store.holder(RUN)
    assert holder is not None
    assert holder.alive is alive
    assert age - 1 <= holder.beat_age <= age + time.monotonic() - before + 1
    if alive:
        with pytest.raises(LeaseHeld, match="process 1 on host node7"), store.claim(RUN):
            pass
    else:
        with store.claim(RUN):
            assert store.holder(RUN).pid == os.getpid()  # type: ignore[union-attr]


def test_a_busy_process_of_this_machine_keeps_its_claim_without_beating(store: Store) -> None:
    leave(store, 10 * LEASE_SECONDS)
    with pytest.raises(LeaseHeld), store.claim(RUN):
        pass


@pytest.mark.parametrize(("age", "alive"), [(0.0, True), (LEASE_SECONDS + 1, False)])
def test_a_damaged_claim_counts_by_its_heartbeat(store: Store, age: float, alive: bool) -> None:
    path = leave(store)
    path.write_bytes(b"\x00\xff{")
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    holder = store.holder(RUN)
    assert holder is not None
    assert holder.alive is alive


def test_a_zombie_is_dead(store: Store) -> None:
    child = os.fork()
    if not child:
        leave(store)
        os._exit(0)
    until(lambda: not works(child))
    assert claim_file(store).exists()
    with store.claim(RUN):
        pass
    os.waitpid(child, 0)


def test_the_heart_beats_until_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(claims, "BEATS", 4)
    before = set(threading.enumerate())
    with store.claim(RUN):
        path = claim_file(store)
        os.utime(path, (1, 1))
        until(lambda: path.stat().st_mtime != 1)
    until(lambda: not any(t.name == "claim-heartbeat" for t in {*threading.enumerate()} - before))


def suspend(store: Store) -> None:
    """Let this process's last beat be as old as if it had been suspended."""
    path = claim_file(store)
    os.utime(path, (path.stat().st_mtime - LEASE_SECONDS - 1,) * 2)


def test_a_suspended_owner_whose_run_was_taken_over_writes_nothing(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store(store.out_dir)
    with store.claim(RUN):
        suspend(store)
        monkeypatch.setattr(claims, "machine", lambda: "another")
        with other.claim(RUN):
            with pytest.raises(LeaseLost, match="taken the run over"):
                store.save(make_record())
            assert not store.path(RUN).exists()
            other.save(make_record())
    assert store.load(RUN) == make_record()
    assert list(store.claims.glob("*.json")) == []


def test_a_beat_between_does_not_hide_the_lapse(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat may wake first; the claim that was lost stays lost although its stamp is fresh again."""
    with store.claim(RUN):
        suspend(store)
        leave(store, machine="another")  # it has judged, and not yet removed what it found dead
        store._held[RUN]._beat()
        with pytest.raises(LeaseLost):
            store.check_claim(RUN)


def test_a_suspended_owner_whom_nobody_missed_goes_on(store: Store, make_record: Callable[..., Record]) -> None:
    with store.claim(RUN):
        suspend(store)
        store.save(make_record())
    assert store.load(RUN) == make_record()


def test_a_late_rival_does_not_drive_an_owner_out(store: Store, make_record: Callable[..., Record]) -> None:
    with store.claim(RUN):
        rival = leave(store, machine="another", token="0" * 16)  # its file is there, and it is about to give way
        store.save(make_record())
        rival.unlink()
    assert store.load(RUN) is not None


def test_a_requeued_slurm_job_sees_its_own_lease_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    leave(store, machine="the node that died", slurm_job="12")
    with pytest.raises(LeaseHeld), store.claim(RUN):
        pass  # a job of this number that was not requeued: another task of it is at work
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with monkeypatch.context() as patch:
        patch.setattr(claims, "LEASE_SECONDS", 0.6)
        with store.claim(RUN):
            pass
    leave(store, machine="elsewhere", slurm_job="13")
    with pytest.raises(LeaseHeld), store.claim(RUN):
        pass


def test_a_fork_does_not_give_the_claim_back(store: Store) -> None:
    with store.claim(RUN):
        child = os.fork()
        if not child:
            store._held[RUN].release()
            os._exit(0)
        os.waitpid(child, 0)
        assert claim_file(store).exists()


def test_a_claim_that_cannot_be_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = os.write
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UsageError, match="disk is full"), store.claim(RUN):
        pass
    monkeypatch.setattr(os, "write", real)
    assert list(store.claims.glob("*")) == []
    with store.claim(RUN):
        pass


RIVAL = """
import os, random, sys, time
from pathlib import Path
from typing import Any
from peftbench.records import leases as claims
from peftbench.records.store import Store
store, number, turns = Store(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
taken = store.out_dir / "turns"
claims.machine = lambda: f"node {number % 3}"  # some share a machine, some see only each other's heartbeat
dice, inside = random.Random(number), store.out_dir / "inside"
while not taken.exists() or taken.stat().st_size < turns:
    try:
        with store.claim("aa"):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # FileExistsError: two are in
            time.sleep(dice.random() * 0.004)
            store.check_claim("aa")
            os.unlink(inside)
            with open(taken, "a") as file:
                file.write(".")
            if dice.random() < 0.3:  # die over it, long ago
                claim = store._held["aa"]
                os.utime(claim.path, (1, 1))
                claim.release = claim._over.set
    except claims.LeaseHeld:
        time.sleep(dice.random() * 0.004)
"""


@pytest.mark.parametrize(("rivals", "turns"), [(4, 60), pytest.param(8, 500, marks=pytest.mark.slow)])
def test_two_are_never_inside(store: Store, rivals: int, turns: int) -> None:
    """Processes on three 'machines' fight for one run; some die over it and are taken over, again and again."""
    store.out_dir.mkdir()
    command = [sys.executable, "-c", RIVAL, str(store.out_dir)]
    running = [subprocess.Popen([*command, str(n), str(turns)], stderr=subprocess.PIPE) for n in range(rivals)]
    errors = [process.communicate(timeout=1200)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * rivals, "\n".join(errors)
    assert not (store.out_dir / "inside").exists()


STOPPED = """
import os, sys
from peftbench.records import leases as claims
from peftbench.records.store import Store
claims.machine = lambda: sys.argv[2]
store = Store(sys.argv[1])
with store.claim("aa"):
    print("held", flush=True)
    sys.stdin.readline()
    store.check_claim("aa")
"""


def test_a_process_that_is_really_suspended_loses_its_run(store: Store) -> None:
    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", STOPPED, str(store.out_dir), name]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    laptop = start("laptop")
    assert laptop.stdout is not None
    assert laptop.stdout.readline() == b"held\n"
    laptop.send_signal(signal.SIGSTOP)
    (claim,) = store.claims.glob("*.json")
    os.utime(claim, (claim.stat().st_mtime - LEASE_SECONDS - 1,) * 2)  # as if it had been stopped for so long
    desktop = start("desktop")
    assert desktop.stdout is not None
    assert desktop.stdout.readline() == b"held\n"
    laptop.send_signal(signal.SIGCONT)
    assert b"LeaseLost" in laptop.communicate(b"\n")[1]
    assert desktop.communicate(b"\n")[1] == b""
    assert desktop.returncode == 0


def test_claims_that_are_removed_under_a_run_are_made_again(
    store: Store, make_record: Callable[..., Record], caplog: pytest.LogCaptureFixture
) -> None:
    with store.claim(RUN):
        shutil.rmtree(store.claims)
        store.save(make_record())
        assert claim_file(store).exists()
        with pytest.raises(LeaseHeld), Store(store.out_dir).claim(RUN):
            pass
    assert "was removed under a run" in caplog.text
    assert list(store.claims.glob("*")) == []


def test_a_claim_that_was_removed_and_taken_is_lost(store: Store) -> None:
    with store.claim(RUN):
        shutil.rmtree(store.claims)
        leave(store, machine="another")
        with pytest.raises(LeaseLost):
            store.check_claim(RUN)


@pytest.mark.parametrize("ahead", [2 * LEASE_SECONDS, 10 * 365 * 86400.0])
def test_a_claim_stamped_in_the_future_does_not_block(store: Store, ahead: float) -> None:
    leave(store, -ahead, machine="elsewhere")
    with store.claim(RUN):
        pass


@pytest.mark.parametrize("facts", [{"pid": 10**30}, {"pid": -1}, {"pid": 0}, {"pid": [1]}, {"host": {"a": 1}}, [], 5])
@pytest.mark.parametrize("age", [0.0, LEASE_SECONDS + 1])
def test_odd_claims_block_for_a_lease_at_most(store: Store, facts: Any, age: float) -> None:
    path = leave(store)
    path.write_text(json.dumps({**claims._myself(), **facts} if isinstance(facts, dict) else facts))
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert store.holder(RUN) is not None
    if age:
        with store.claim(RUN):
            pass


def test_nested_or_blocking_claims(store: Store) -> None:
    path = leave(store, LEASE_SECONDS + 1)
    old = path.stat().st_mtime
    path.write_text("[" * 100_000)
    os.utime(path, (old, old))
    os.mkfifo(path.with_name(f"{RUN}.{'a' * 16}.json"))
    with store.claim(RUN):
        pass
