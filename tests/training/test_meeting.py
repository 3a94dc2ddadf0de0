"""Processes that wait for each other: they say for whom, stop when they are told, and compare what they are to do."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from peftbench.errors import Interrupted, UsageError
from peftbench.training import distributed, launch
from peftbench.training.distributed import check_alike, meet
from peftbench.training.launch import Place, check_address


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def place(rank: int, port: int, rendezvous: Path | str = "", address: str = "127.0.0.1") -> Place:
    return Place(rank, 2, rank, address, port, str(rendezvous))


@pytest.fixture(autouse=True)
def in_short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(distributed, "STEP_SECONDS", 0.01)


@pytest.mark.parametrize("rank", [0, 1])
def test_who_is_missing_is_said_and_the_wait_ends(capsys: pytest.CaptureFixture[str], rank: int) -> None:
    words = f"rank {rank} of 2 waits for 1 of 2 processes \\(rank {1 - rank}\\) at 127.0.0.1"
    with pytest.raises(UsageError, match=f"{words}.*unset SLURM_STEP_ID.*PEFTBENCH_WAIT_SECONDS"):
        meet(place(rank, free_port()), 0.05)
    assert "waits for 1 of 2 processes" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(rank: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftbench.attempt import Attempt

    steps = iter(range(100))
    real = time.sleep

    def sleep(seconds: float) -> None:
        if next(steps) == 2:
            signal.raise_signal(number)
        real(seconds)

    monkeypatch.setattr(distributed.time, "sleep", sleep)
    with Attempt().signals(), pytest.raises(Interrupted):
        meet(place(rank, free_port()), 60)


@pytest.mark.parametrize("by_file", [False, True])
def test_two_who_come_meet(tmp_path: Path, by_file: bool) -> None:
    port, rendezvous, found = free_port(), tmp_path / "meeting" if by_file else "", []
    other = threading.Thread(target=lambda: found.append(meet(place(1, port, rendezvous), 60)))
    other.start()
    store = meet(place(0, port, rendezvous), 60)
    other.join()
    store.set("word", "heard")
    assert found[0].get("word") == b"heard"


def test_a_taken_port_is_one_message() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with pytest.raises(UsageError, match=r"port \d+ is taken.*MASTER_PORT"):
            meet(place(0, taken.getsockname()[1]), 5)


def unknown(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_a_name_that_means_nothing_is_said_once_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("SLURMD_NODENAME", "gpu07")
    for rank in (0, 1):
        with pytest.raises(UsageError, match=r"the node `gpu99`.*from `gpu07`.*/etc/hosts.*MASTER_ADDR"):
            meet(Place(rank, 4, 0, "gpu99", 1234), 60)
    with pytest.raises(SystemExit, match="2"):
        meet(Place(2, 4, 1, "gpu99", 1234), 60)


def test_a_name_server_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), None])

    def asked(*_: object, **__: object) -> None:
        if error := next(answers):
            raise error

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.0)
    check_address("gpu07")
    assert next(answers, "asked twice") == "asked twice"


def test_what_differs_between_ranks_is_named() -> None:
    facts = {"seed": 1, "trainer": {"lr": 0.1}, "version": {"torch": "2.5"}, "data": "aa"}
    check_alike([facts, facts, facts])
    others = [{**facts, "seed": 2}, {**facts, "trainer": {"lr": 0.2}, "version": {"torch": "2.6"}}]
    with pytest.raises(UsageError) as caught:
        check_alike([facts, *others])
    for words in ("seed (1 on rank 0, 2 on rank 1)", "trainer.lr (0.1 on rank 0, 0.2 on rank 2)", "version.torch"):
        assert words in str(caught.value)
