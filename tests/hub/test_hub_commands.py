"""The hub as a command meets it: a process of its own, with HF_ENDPOINT in its environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hub_server import Hub, serve
from made_up_networks import saved_files
from waiting import until, until_idle

pytestmark = pytest.mark.slow
MODEL = ["model=hub", "model.family=encoder", "method=lora", "shots=2", "trainer=debug", "task=demo_news"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A saved tiny BERT: name -> content."""
    return saved_files(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def server() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


def begin(
    hub: Hub, home: Path, *args: str, stderr: int | IO[str] = subprocess.PIPE, **variables: str
) -> subprocess.Popen[str]:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "PEFTBENCH_CACHE": str(home / "cache")}
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-m", "peftbench", *args, "tracking.wandb=disabled", f"out_dir={home / 'results'}"]
    return subprocess.Popen(
        command, env={**env, **own, **variables}, cwd=home, text=True, stdout=subprocess.PIPE, stderr=stderr
    )


def peftbench(hub: Hub, home: Path, *args: str, **variables: str) -> tuple[int, str, str]:
    process = begin(hub, home, *args, **variables)
    out, err = process.communicate()
    return process.returncode, out, err


def records(home: Path) -> list[dict]:
    return [json.loads(path.read_bytes()) for path in (home / "results" / "records").glob("*.json")]


def test_a_run_of_a_branch_says_its_commit_and_works_offline_afterwards(server, files, tmp_path):
    commit = server.model("acme/net").commit(files)
    code, out, _ = peftbench(server, tmp_path, *MODEL, "model.path=acme/net")
    assert code == 0
    assert f"main of acme/net was {commit}; model.revision={commit} pins it" in out
    code, _, err = peftbench(server, tmp_path, *MODEL, "model.path=acme/net", "seed=2", HF_HUB_OFFLINE="1")
    assert (code, err) == (0, "")
    assert {record["model_info"]["revision"] for record in records(tmp_path)} == {commit}
    assert commit in (tmp_path / "results" / "leaderboard.csv").read_text()


def test_a_sweep_with_a_dead_repository(server, files, tmp_path):
    server.model("acme/net").commit(files)
    server.model("acme/dead").fault("info", 503, Retry_After="0")
    code, out, _ = peftbench(server, tmp_path, "-m", *MODEL, "model.path=acme/net,acme/dead")
    assert code == 2
    assert "1 of 2 runs are done, 1 could not start" in out
    assert "could not start: model.path=acme/dead: model=acme/dead" in out
    assert "503" in out
    assert "cannot be reached" not in out


@pytest.mark.parametrize("times", [1, 2])
def test_a_stop_during_a_download_is_said_and_recorded(times, server, files, tmp_path):
    """One signal ends the run with the file that is under way, the second at once."""
    repo = server.model("acme/slow")
    commit = repo.commit({**files, "model.safetensors": bytes(24_000_000)})
    repo.fault("cdn", "hang")
    said = "SIGINT: ending once the files of acme/slow that are under way are here"
    with (tmp_path / "stderr").open("w+") as told:
        process = begin(server, tmp_path, *MODEL, "model.path=acme/slow", stderr=told)
        until(lambda: process.poll() is not None or any(asked.startswith("GET /cdn/") for asked in server.requests))
        process.send_signal(signal.SIGINT)
        until(lambda: process.poll() is not None or said in (tmp_path / "stderr").read_text())
        if times == 2:
            until_idle(process.pid)  # it waits for the file by now
            process.send_signal(signal.SIGINT)
        else:
            server.let_go.set()
        assert process.wait(600) == 130
    assert bool(server.sent) == (times == 1), "whole, or not waited for"
    err = (tmp_path / "stderr").read_text()
    assert f"peftbench: fetching acme/slow@{commit}, 24." in err
    assert said in err
    (record,) = records(tmp_path)
    assert "SIGINT during the download of acme/slow" in record["reason"]
