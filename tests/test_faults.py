"""Whole commands that are killed, stopped, run side by side, or run out of disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from slow_steps import slow_after
from waiting import until, works

from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.training import launch

pytestmark = pytest.mark.slow

FAST = ["model=tiny-bert", "task=demo_news", "trainer=debug", "shots=2", "method=lora", "trainer.device=cpu"]
SILENT = ["tracking.wandb=disabled"]
TWO = [
    *FAST,
    *SILENT,
    "trainer.devices=2",
    "trainer.steps=120",
    "trainer.eval_every=40",
    "trainer.checkpoint_every=10",
]


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "peftbench", *args, f"out_dir={folder}"]
    return subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a background shell ignores
    )


def end(process: subprocess.Popen[str], seconds: float = 900) -> tuple[int, str]:
    """Exit code and what it said on standard error."""
    error = process.communicate(timeout=seconds)[1]
    return process.returncode, error


def begin_slowly(folder: Path, step: int, *args: str) -> subprocess.Popen[str]:
    """A run that has done so many steps and does no more than one a second from there, until `let_go`."""
    process = start(folder, *args, *slow_after(step, until=folder / "go"))

    def is_there() -> bool:
        assert process.poll() is None, f"step {step} was never seen: {end(process)}"
        seen = [json.loads(path.read_text()).get("step") or 0 for path in folder.glob("runs/*/progress.json")]
        return max(seen, default=0) > step

    until(is_there)
    return process


def let_go(folder: Path) -> None:
    (folder / "go").touch()


def again(folder: Path, step: int, *args: str) -> tuple[int, str]:
    """The same command once more, at full speed."""
    let_go(folder)
    return end(start(folder, *args, *slow_after(step, until=folder / "go")))


def ranks(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the workers, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, children), key=rank_of)


def rank_of(pid: int) -> int:
    """By its environment: the numbers of processes begin anew at some time."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return int(next(v for v in variables if v.startswith(b"RANK=")).removeprefix(b"RANK="))


def gone(pids: list[int]) -> bool:
    return not any(works(pid) for pid in pids)


def the_record(folder: Path) -> Record:
    (record,) = Store(folder).all()
    return record


def same(one: Record, other: Record) -> bool:
    names = ("score", "scores", "dev_score", "curves", "predictions")
    return all(getattr(one, name) == getattr(other, name) for name in names)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The undisturbed run in two processes."""
    folder = tmp_path_factory.mktemp("whole")
    assert again(folder, 0, *TWO) == (0, "")
    return the_record(folder)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_with_its_name(tmp_path: Path, whole: Record, rank: int) -> None:
    assert launch.SETTLE_SECONDS + launch.GRACE_SECONDS < 30
    step = 7 + 20 * rank
    process = begin_slowly(tmp_path, step, *TWO)
    pids = ranks(process)
    os.kill(pids[rank], signal.SIGKILL)
    code, error = end(process)
    assert code != 0
    assert gone(pids)
    record = the_record(tmp_path)
    assert record.status == "failed"
    assert record.reason.startswith(f"rank {rank} was killed by SIGKILL")
    assert f"rank {rank} was killed by SIGKILL" in error or rank == 0
    assert not any(holder.alive for holder in Store(tmp_path).holders().values())
    code, error = again(tmp_path, step, *TWO)
    assert code == 0, error
    record = the_record(tmp_path)
    assert record.compute["attempts"] == 2
    assert same(record, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_saves_the_same_step_on_every_rank(
    tmp_path: Path, whole: Record, number: int, code: int
) -> None:
    args = [a for a in TWO if "checkpoint_every" not in a]
    process = begin_slowly(tmp_path, 8, *args)
    pids = ranks(process)
    process.send_signal(number)
    found, error = end(process)
    assert found == code, error
    assert "the same command goes on" in error
    assert gone(pids)
    record = the_record(tmp_path)
    assert record.status == "interrupted"
    assert signal.Signals(number).name in record.reason
    assert len(list(tmp_path.rglob("checkpoint-*"))) == 1
    assert again(tmp_path, 8, *args)[0] == 0
    assert same(the_record(tmp_path), whole)


def test_a_killed_launcher_leaves_no_orphans(tmp_path: Path, whole: Record) -> None:
    process = begin_slowly(tmp_path, 12, *TWO)
    pids = ranks(process)
    process.kill()
    end(process)
    until(lambda: gone(pids))
    assert again(tmp_path, 12, *TWO)[0] == 0
    assert same(the_record(tmp_path), whole)


def test_runs_side_by_side_do_not_meet(tmp_path: Path) -> None:
    """Three commands of two processes each on one machine, at the same time."""
    short = [a for a in TWO if "steps" not in a]
    running = [start(tmp_path, *short, "trainer.steps=4", f"seed={seed}") for seed in (1, 2, 3)]
    assert [end(process)[0] for process in running] == [0] * 3
    assert len(Store(tmp_path).all()) == 3


def test_the_same_command_twice_at_once_is_done_once(tmp_path: Path) -> None:
    args = [*FAST, *SILENT, "trainer.steps=200"]
    first = begin_slowly(tmp_path, 1, *args)
    code, error = end(start(tmp_path, *args, *slow_after(1, until=tmp_path / "go")))
    let_go(tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert f"is being worked on by process {first.pid} on host" in error
    assert end(first)[0] == 0
    assert the_record(tmp_path).status == "done"


def test_wandb_goes_on_under_the_same_run_id(tmp_path: Path) -> None:
    args = [*FAST, "tracking.wandb=offline", "trainer.steps=120"]
    process = begin_slowly(tmp_path, 20, *args)
    process.terminate()
    assert end(process)[0] == 143
    assert again(tmp_path, 20, *args)[0] == 0
    record = the_record(tmp_path)
    found = sorted(p.name for p in tmp_path.glob(f"runs/{record.run_id}/wandb/offline-run-*"))
    assert len(found) == 2
    assert all(name.endswith(f"-{record.run_id}") for name in found)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode
    ):
        pytest.skip("cannot mount a tmpfs here (needs root)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_at_any_write_of_a_run(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From no room at all to enough, page by page: one message, and what was there stays; then it goes on."""
    from peftbench.cli import main

    def call(*args: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main([*args, f"out_dir={small_disk}"])
        return int(caught.value.code or 0)

    args = [*FAST, *SILENT, "trainer.steps=6", "trainer.checkpoint_every=2", "trainer.save=all"]
    assert call(*FAST, *SILENT, "method=majority") == 0
    (earlier,) = Store(small_disk).all()
    filler, pages, failures = small_disk / "filler", 0, 0
    while True:
        free = os.statvfs(small_disk)
        filler.write_bytes(b"x" * max(0, free.f_bavail * free.f_frsize - pages * 4096))
        capsys.readouterr()
        code = call(*args)
        error = capsys.readouterr().err
        filler.unlink()
        assert earlier in Store(small_disk).all()
        if code == 0:
            break
        failures += 1
        assert code == 2, error
        assert "disk is full" in error
        assert "Traceback" not in error
        assert not list(small_disk.rglob("draft-*"))
        assert [r.run_id for r in Store(small_disk).all()] == [earlier.run_id]
        pages += 1 if pages < 12 else 8
    assert failures > 5
    reference = tmp_path / "reference"
    with pytest.raises(SystemExit):
        main([*args, f"out_dir={reference}"])
    (done,) = [r for r in Store(small_disk).all() if r.run_id != earlier.run_id]
    assert same(done, the_record(reference))


@pytest.fixture(scope="module")
def torture() -> ModuleType:
    import importlib.util

    path = Path(__file__).parents[1] / "scripts" / "fault_torture.py"
    spec = importlib.util.spec_from_file_location("fault_torture", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_few_random_kills(tmp_path: Path) -> None:
    """`make torture` does two hundred."""
    script = Path(__file__).parents[1] / "scripts" / "fault_torture.py"
    command = [sys.executable, script, "--kills", "6", "--seed", "5", "--seconds", "600", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 different, 0 problems" in done.stdout


def test_the_torture_notices_what_it_looks_for(torture: ModuleType, tmp_path: Path) -> None:
    from made_up_records import a_record

    store, tally = Store(tmp_path), torture.Tally()
    whole = {name: a_record(name) for name in ("aa", "bb")}
    store.save(a_record("aa", score=1.0))
    store.save(a_record("cc"))
    (tmp_path / "leaderboard.csv").write_text("torn")
    torture.verify(store, whole, tally)
    for words in ("lost: bb", "different: aa", "never asked for", "torn", "does not equal", "no predictions"):
        assert any(words in problem for problem in tally.problems), words
