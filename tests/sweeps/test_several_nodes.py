"""Two nodes of a SLURM: they train together, one dies, their names mean nothing. `make slurm-test` starts them here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from slow_steps import slow_after
from slurm_users import BASE, Front, asked, at_work, clean_up, cluster, submitted  # noqa: F401
from waiting import until

from peftbench.records.leaderboard import rows_of
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.sweeps.arrays import remembered

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster", "clean_up", "nodes")]
START = Path(__file__).parents[2] / "scripts" / "slurm_dev_cluster.sh"
FIRST, SECOND = "peftbench-1", "peftbench-2"
FIRST_NODE = "$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n1)"
ADDRESS = rf"$(scontrol show node {FIRST_NODE} | grep -o NodeAddr=[^\ ]* | cut -d= -f2)"
KNOWN = f'hydra.launcher.setup=["export MASTER_ADDR={ADDRESS}"]'
"""The way out of docs/sweeps.md where names do not resolve."""


@pytest.fixture
def nodes() -> Iterator[None]:
    """The two nodes of our own cluster, both of them up again when a test has ended."""
    if {FIRST, SECOND} != {*asked("sinfo", "--noheader", "--Node", "--format=%N").split()}:
        pytest.skip("needs the two nodes of scripts/slurm_dev_cluster.sh")
    yield
    subprocess.run([START, "start"], stdout=subprocess.DEVNULL, check=True)


def the_record(folder: Path) -> Record:
    """Of the only run in a folder's results."""
    (record,) = Store(folder / "results").all()
    return record


def test_two_processes_equal_one_and_two_nodes_equal_one(tmp_path: Path) -> None:
    words = ["trainer.steps=12", "trainer.eval_every=6", "trainer.precision=fp32", "hydra.launcher.timeout_min=10"]
    words += ["hydra.launcher.cpus_per_task=1"]
    fronts = [
        Front(tmp_path / "on_one", *words, "hydra.launcher.tasks_per_node=2"),
        Front(tmp_path / "on_two", *words, "hydra.launcher.nodes=2", KNOWN),
        Front(tmp_path / "alone", *words),
    ]
    for front in fronts:
        assert front.wait() == 0, front.said
    (job,) = submitted(tmp_path / "on_two")
    assert "NodeList=peftbench-[1-2]" in asked("scontrol", "show", "job", job)
    on_one, on_two, alone = (the_record(tmp_path / name) for name in ("on_one", "on_two", "alone"))
    assert [record.environment["n_devices"] for record in (on_one, on_two, alone)] == [2, 2, 1]
    assert on_one.run_id == on_two.run_id == alone.run_id
    assert on_two.curves["loss"] == on_one.curves["loss"]  # nodes change nothing: the same sums in the same order
    assert on_two.predictions["sha256"] == on_one.predictions["sha256"]
    assert on_two.curves["loss"] == pytest.approx(alone.curves["loss"], abs=1e-5)
    assert on_two.scores == on_one.scores == alone.scores


def test_the_runs_of_a_node_that_dies_are_done_on_the_other(tmp_path: Path) -> None:
    words = ["seed=1,2", "trainer.steps=100", "trainer.eval_every=50", "trainer.checkpoint_every=10"]
    words += [*slow_after(25, until=tmp_path / "go"), "hydra.launcher.timeout_min=60"]
    whole_node = asked("sinfo", "--noheader", "--Node", f"--nodes={FIRST}", "--format=%c").strip()
    front = Front(tmp_path, *words, f"hydra.launcher.cpus_per_task={whole_node}")
    until(lambda: submitted(tmp_path) not in ([], [""]))
    (_, array), *_ = remembered(tmp_path / "results" / "sweeps")
    store = Store(tmp_path / "results")
    for task in array.tasks:
        until(lambda task=task: at_work(store, task, steps=20))
    held = {run_id: holder.pid for run_id, holder in store.holders().items()}
    assert len(held) == 2
    (lost,) = (run_id for run_id, pid in held.items() if node_of(pid) == SECOND)
    kill_node(SECOND)
    (tmp_path / "go").touch()
    asked("scontrol", "update", f"NodeName={SECOND}", "State=DOWN", "Reason=dead")  # what SlurmdTimeout comes to
    assert front.wait() == 0, front.said

    records = {record.run_id: record for record in store.all()}
    assert set(records) == set(held)
    assert {record.status for record in records.values()} == {"done"}
    assert {run_id: record.compute["attempts"] for run_id, record in records.items()} == {
        run_id: 2 if run_id == lost else 1 for run_id in held
    }
    assert len(rows_of(store, list(held))) == 2
    assert submitted(tmp_path) == [array.job_id]
    assert not store.holders()
    logs = "".join(path.read_text() for path in store.out_dir.glob("sweeps/*/logs/*.out"))
    for run_id in held:
        assert len(re.findall(rf"^{run_id}  f1_weighted", logs, re.MULTILINE)) == 1


def node_of(pid: int) -> str:
    """The node whose step a process belongs to; "" if to none."""
    with suppress(OSError):
        found = re.search(rb"(?:^|\0)SLURMD_NODENAME=([^\0]+)", Path(f"/proc/{pid}/environ").read_bytes())
        return found[1].decode() if found else ""
    return ""


def kill_node(node: str) -> None:
    """As in a power cut: the daemon and the keepers of its steps first, so that nobody is told, then all processes."""
    processes = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    daemons = [pid for pid in processes if command_of(pid) == ["slurmd", "-N", node]]
    victims = [pid for pid in processes if node_of(pid) == node]
    keepers = {parent for pid in victims if command_of(parent := parent_of(pid))[:1] == ["slurmstepd:"]}
    assert daemons
    assert keepers
    for pid in [*daemons, *keepers, *victims]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command_of(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split()
    return []


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def test_names_that_mean_nothing_are_said_by_the_job_before_its_processes_start(tmp_path: Path) -> None:
    front = Front(tmp_path, "hydra.launcher.nodes=2", "hydra.launcher.timeout_min=10")
    assert front.wait() == 1, front.said
    unknown = f"the node `{FIRST}`, where the processes are to meet, cannot be found from `{FIRST}`"
    assert unknown in front.said
    record = the_record(tmp_path)
    assert record.status == "failed"
    assert record.reason.startswith(unknown)
    for way_out in ("Add it to /etc/hosts on every node", "set MASTER_ADDR"):
        assert way_out in record.reason
    logs = "".join(path.read_text() for path in (tmp_path / "results").glob("sweeps/*/logs/*.out"))
    assert logs.count("cannot be found") == 1
    assert "Traceback" not in logs


def test_names_that_mean_nothing_are_said_by_each_node_of_a_step(tmp_path: Path) -> None:
    command = ["srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", sys.executable, "-m", "peftbench", *BASE]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 2
    said = re.findall(rf"^peftbench: the node `{FIRST}`.*cannot be found from `(\S+)`", ended.stderr, re.MULTILINE)
    assert sorted(said) == [FIRST, SECOND]
    assert "Traceback" not in ended.stderr
    assert not Store(tmp_path / "results").all()
