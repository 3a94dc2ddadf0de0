import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import until, works

from peftbench import ddp_worker as worker
from peftbench.errors import UsageError
from peftbench.training import launch
from peftbench.training.launch import Place, find_place, first_host

WITH_RANKS_WORKER = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Launch ranks that do as told: an exit code, "die", "hang" or "stubborn"."""
    monkeypatch.setattr(launch, "WORKER", "ranks_worker")
    monkeypatch.setenv("PYTHONPATH", WITH_RANKS_WORKER)

    def go(*orders):
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"folder": str(tmp_path), "ranks": orders}))
        return launch.launch(config, len(orders)).code

    return go


def gone(folder, ranks):
    for rank in range(ranks):
        with pytest.raises(ProcessLookupError):
            os.kill(int((folder / f"pid{rank}").read_text()), 0)


def test_all_well_only_rank_0_speaks(ranks, capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert ranks(0, 0) == 0
    share = max(1, os.cpu_count() // 2)
    assert capfd.readouterr().out == f"rank 0 of 2 at 127.0.0.1, {share} threads\n"


def test_a_wrong_config_is_said_once_with_its_exit_code(ranks, capfd):
    assert ranks(2, 2) == 2
    assert capfd.readouterr().err == "rank 0 says why\n"


def test_a_dead_rank_ends_all_soon(ranks, tmp_path, capfd):
    assert ranks("hang", "die") == 128 + signal.SIGKILL
    gone(tmp_path, 2)
    assert not (tmp_path / "slept0").exists()
    assert "rank 1 was killed by SIGKILL" in capfd.readouterr().err


def test_a_failing_rank_shows_its_last_words(ranks, capfd):
    assert ranks("hang", 1) == 1
    assert "rank 1 says why" in capfd.readouterr().err


def test_a_rank_that_will_not_leave_is_killed(ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(launch, "SETTLE_SECONDS", 0.5)
    assert ranks("stubborn", 3) == 3
    gone(tmp_path, 2)


LAUNCHER = """
import sys
from pathlib import Path
from peftbench.training import launch
launch.WORKER = "ranks_worker"
watch = launch._watch
def watch_and_say_so(*args):
    Path(sys.argv[1]).with_name("watching").touch()
    return watch(*args)
launch._watch = watch_and_say_so
code = launch.launch(Path(sys.argv[1]), 2).code
assert "torch" not in sys.modules
sys.exit(code)
"""


def start_launcher(folder, order, **more):
    """A launcher that watches two ranks which do as told, and their process ids."""
    config = folder / "config.json"
    config.write_text(json.dumps({"folder": str(folder), "ranks": [order, order], **more}))
    environ = {**os.environ, "PYTHONPATH": WITH_RANKS_WORKER}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(LAUNCHER), str(config)], env=environ)
    until(lambda: (folder / "watching").exists() and len(list(folder.glob("pid?"))) == 2)
    return process, [int((folder / f"pid{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_to_the_launcher_reach_the_ranks(tmp_path, number):
    process, pids = start_launcher(tmp_path, "hang")
    process.send_signal(number)
    code = process.wait(600)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
    until(lambda: not any(map(works, pids)))
    assert (tmp_path / "left0").exists() == (number == signal.SIGINT)


def test_a_rank_that_hangs_while_it_closes_goes_with_the_launcher(tmp_path):
    process, pids = start_launcher(tmp_path, "no end", grace=1.0)
    process.kill()
    process.wait(600)
    until(lambda: not any(map(works, pids)))


SIGNALLED = """
import os, signal, subprocess
start = subprocess.Popen
def start_and_signal(*args, **how):
    process = start(*args, **how)
    print(process.pid)
    if "signalled" not in globals():
        globals()["signalled"] = True
        os.kill(os.getpid(), signal.SIGTERM)
    return process
subprocess.Popen = start_and_signal
"""


def test_a_signal_between_the_first_and_the_second_rank_ends_both(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"folder": str(tmp_path), "ranks": ["hang", "hang"]}))
    environ = {**os.environ, "PYTHONPATH": WITH_RANKS_WORKER}
    command = [sys.executable, "-c", SIGNALLED + LAUNCHER, str(config)]
    process = subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    pids = [int(line) for line in out.split("\n") if line.isdigit()]
    assert len(pids) == 2
    until(lambda: not any(map(works, pids)))


def test_worker_says_a_usage_error_without_a_traceback(tmp_path, monkeypatch, capsys):
    fake = type(sys)("peftbench.runner")
    monkeypatch.setitem(sys.modules, "peftbench.runner", fake)
    monkeypatch.setattr("peftbench.config.load.from_plain", lambda plain: plain)
    config = tmp_path / "config.json"
    config.write_text('{"seed": 1}')
    seen = []
    fake.run = lambda config: (seen.append(config), True)
    assert worker.main([str(config)]) == 0
    assert seen == [{"seed": 1}]

    def wrong(config):
        raise UsageError("task=x: no such task.")

    fake.run = wrong
    assert worker.main([str(config)]) == 2
    assert capsys.readouterr().err == "error: task=x: no such task.\n"


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "123",
    "SLURM_JOB_NODELIST": "gpu[07-09],login",
}


def test_places():
    assert find_place({}) is None
    assert find_place(TORCHRUN) == Place(3, 4, 1, "here", 29500)
    assert find_place({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}) is None
    assert find_place(STEP) == Place(2, 4, 0, "gpu07", 20861)
    assert find_place({**STEP, "MASTER_ADDR": "a", "MASTER_PORT": "7"}) == Place(2, 4, 0, "a", 7)
    assert find_place({**STEP, "SLURM_STEP_NUM_NODES": "1"}) == Place(2, 4, 0, "127.0.0.1", 20861)
    assert find_place({**STEP, **TORCHRUN}) == Place(3, 4, 1, "here", 29500)
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "gpu07"}
    assert find_place(batch_script) is None
    assert find_place({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("box", "box"), ("a1,a2", "a1"), ("gpu[07-09,12],login", "gpu07"), ("rack[1-2]n[03,05]", "rack1n03")],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first
