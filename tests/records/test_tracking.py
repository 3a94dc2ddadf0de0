"""W&B never costs a run: whatever it does becomes one warning."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peftbench.config.schema import TrackingConfig
from peftbench.records import tracking
from peftbench.records.record import Record
from peftbench.records.tracking import Tracker, resolve_mode


class Hang:
    """A call that does not come back before the test is over."""

    def __init__(self) -> None:
        self.over, self.waiting = threading.Event(), 0

    def __call__(self) -> None:
        self.waiting += 1
        self.over.wait(600)
        self.waiting -= 1


class FakeRun:
    def __init__(self, fail: str, hang: Hang) -> None:
        self.fail, self.hang, self.logged, self.summary, self.code = fail, hang, [], {}, None

    def define_metric(self, *args: Any, **kwargs: Any) -> None: ...

    def log(self, values: dict[str, float]) -> None:
        if self.fail == "log":
            raise RuntimeError("log failed\nsecond line")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        if self.fail == "finish":
            raise RuntimeError("finish failed")
        if self.fail == "hang_finish":
            self.hang()
        self.code = exit_code


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], types.SimpleNamespace]]:
    """A module named wandb that fails where it is told to."""
    hang = Hang()

    def make(fail: str) -> types.SimpleNamespace:
        if fail == "hang_init":
            monkeypatch.setattr(tracking, "INIT_SECONDS", 0.1)
        if fail == "hang_finish":
            monkeypatch.setattr(tracking, "FINISH_SECONDS", -9.8)  # 10 s of grace are added
        run = FakeRun(fail, hang)
        fake = types.SimpleNamespace(calls=[], hang=hang, run=run, Settings=dict, teardown=lambda: None)

        def init(**kwargs: Any) -> FakeRun:
            fake.calls.append(kwargs)
            if fail == "init" or (fail == "online" and kwargs["mode"] == "online"):
                raise RuntimeError("init failed")
            if fail == "hang_init":
                hang()
            return fake.run

        fake.init = init
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    yield make
    hang.over.set()
    for thread in threading.enumerate():
        if thread.name == "wandb-call":
            thread.join()  # it puts the environment back


def live(record: Record, folder: Path, mode: str = "offline") -> None:
    """What a run does with its tracker."""
    tracker = Tracker(TrackingConfig(wandb=mode, tags=["mine"]), record, folder)
    for step in range(3):
        tracker.log(step, {"loss": 1.0 / (step + 1)})
    tracker.finish(record)


def test_what_is_sent(tmp_path: Path, make_record: Callable[..., Record], fake_wandb: Any) -> None:
    fake = fake_wandb("")
    record = make_record(config={"out_dir": "/home/someone/results", "data_dir": "/home/someone", "shots": 10})
    live(record, tmp_path)
    (call,) = fake.calls
    assert (call["mode"], call["dir"], call["id"]) == ("offline", str(tmp_path), record.run_id)
    assert call["tags"] == ["minilm", "dept", "masakhanews", "mine"]
    assert "someone" not in str(call["config"])
    assert fake.run.logged == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1 / 3}]
    assert fake.run.summary["scores/f1_macro"] == 80.5
    assert fake.run.summary["seconds/train"] == 54.25
    assert fake.run.summary["memory/train_peak_mib"] == 412.5
    assert fake.run.code == 0


@pytest.mark.parametrize("fail", ["init", "log", "finish", "hang_init", "hang_finish"])
def test_a_failure_costs_one_warning(
    tmp_path: Path, make_record: Callable[..., Record], fake_wandb: Any, caplog: pytest.LogCaptureFixture, fail: str
) -> None:
    fake = fake_wandb(fail)
    live(make_record(), tmp_path)
    assert fake.hang.waiting == fail.startswith("hang"), "the run did not wait for it"
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "The run goes on without it" in caplog.text
    assert "second line" not in caplog.text


def test_no_wandb_installed(
    tmp_path: Path,
    make_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    live(make_record(), tmp_path)
    assert len(caplog.records) == 1


def test_online_that_cannot_be_reached_goes_offline(
    tmp_path: Path, make_record: Callable[..., Record], fake_wandb: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fake = fake_wandb("online")
    live(make_record(), tmp_path, mode="online")
    assert [call["mode"] for call in fake.calls] == ["online", "offline"]
    assert len(fake.run.logged) == 3
    assert "cannot be reached (init failed); this run is logged offline" in caplog.text


def test_disabled_does_not_import_wandb(tmp_path: Path, make_record: Callable[..., Record], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    live(make_record(), tmp_path, mode="disabled")


def test_auto_mode(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 123\n")
    (tmp_path / "broken").write_text("nonsense {\n")
    nothing = {"NETRC": str(tmp_path / "none")}
    assert resolve_mode("auto", nothing) == "offline"
    assert resolve_mode("auto", {"NETRC": str(tmp_path / "broken")}) == "offline"
    assert resolve_mode("auto", {"WANDB_API_KEY": "k", **nothing}) == "online"
    assert resolve_mode("auto", {"NETRC": str(tmp_path / "netrc")}) == "online"
    assert (
        resolve_mode("auto", {"NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "https://w.example.org"}) == "offline"
    )
    assert resolve_mode("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}) == "disabled"
    assert resolve_mode("offline", {"WANDB_API_KEY": "k"}) == "offline"


REAL = """
import sys
from pathlib import Path
from made_up_records import a_record
from peftbench.config.schema import TrackingConfig
from peftbench.records import tracking
tracking.INIT_SECONDS = 20.0
record = a_record()
tracker = tracking.Tracker(TrackingConfig(wandb=sys.argv[1]), record, Path(sys.argv[2]))
for step in range(5):
    tracker.log(step, {"loss": 1.0})
    tracker.log(step, {"dev": 50.0})
tracker.finish(record)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_the_real_wandb_without_a_network(tmp_path: Path, mode: str) -> None:
    """Silent, in the run's folder, and online falls back to offline."""
    import os

    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    env |= {"WANDB_API_KEY": "a" * 40} if mode == "online" else {}
    env.pop("WANDB_MODE", None)
    done = subprocess.run(
        [sys.executable, "-c", REAL, mode, tmp_path], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == (1 if mode == "online" else 0), done.stderr
    (home,) = tmp_path.glob("wandb/offline-run-*")
    (log,) = home.glob("*.wandb")
    assert log.stat().st_size > 500


def test_no_absolute_path_is_sent() -> None:
    config = {"model": {"path": "/home/anna/models/bert/", "name": "bert"}, "tuner": ["~/a/b.py", 3]}
    assert tracking.placeless(config) == {"model": {"path": ".../bert", "name": "bert"}, "tuner": [".../b.py", 3]}
