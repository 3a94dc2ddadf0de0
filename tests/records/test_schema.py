"""What is read from a record's file is what the schema says, whoever wrote it: a fitting checksum proves nothing."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftbench.errors import UsageError
from peftbench.records import leaderboard
from peftbench.records.record import SCHEMA_VERSION, Record
from peftbench.records.store import Store, encode

GOOD, ODD = "0" * 16, "1" * 16


@pytest.fixture
def store(tmp_path: Path, make_record: Callable[..., Record]) -> Store:
    store = Store(tmp_path / "results")
    store.save(make_record(GOOD))
    return store


def signed(plain: dict[str, Any]) -> bytes:
    """The bytes of any JSON as a record, with the checksum that fits."""
    body = json.dumps(plain).encode()[1:]
    return b'{\n  "checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "finished"}, "status"),
        ({"score": "90.1"}, "score: text"),
        ({"score": True}, "score: true or false"),
        ({"score": float("nan")}, "NaN"),
        ({"score": 1e99}, "score: no finite number"),
        ({"seed": 2.5}, "seed: a number, not a whole number"),
        ({"scores": [1, 2]}, "scores: a list"),
        ({"scores": {"f1": {"x": 1}}}, "scores.f1"),
        ({"created": "yesterday"}, "created"),
        ({"shots": ""}, "shots: neither"),
        ({"notes": "a note"}, "notes: text"),
        ({"curves": {"loss": [0.1] * 20 + ["0.1"]}}, "curves.loss"),
        ({"stages": [{"steps": "many"}]}, "stages.steps"),
        ({"environment": {"versions": ["torch"]}}, "environment.versions"),
        ({"draw": {"rows": {"test": None}}}, "draw.rows.test: null"),
        ({"predictions": {"file": "../../secret"}}, "predictions.file"),
        ({"config": {"trainer": 5}}, "config.trainer"),
        ({"config": {"method": {"lr": "fast"}}}, "config.method.lr"),
        ({"run_id": "another"}, "holds run another"),
    ],
    ids=str,
)
def test_a_field_of_another_type_sets_the_record_aside(
    store: Store, make_record: Callable[..., Record], caplog: pytest.LogCaptureFixture, changes: dict, words: str
) -> None:
    plain = {**make_record(ODD).to_dict(), **changes}
    store.path(ODD).write_bytes(signed(plain))
    assert [record.run_id for record in store.all()] == [GOOD]
    assert len(caplog.records) == 1
    assert words in caplog.text
    assert (store.out_dir / "quarantine" / f"{ODD}.json").exists()


def test_nests_without_end(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    body = b'"run_id": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    head = b'{\n  "checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n'
    store.path(ODD).write_bytes(head + body)
    assert len(leaderboard.current_rows(store)) == 1
    assert "nested too deeply" in caplog.text


def make_folder(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "make",
    [
        make_folder,
        os.mkfifo,
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
        make_socket,
    ],
    ids=["folder", "named pipe", "ring of links", "device", "socket"],
)
def test_what_is_no_file_is_set_aside_and_never_waited_for(
    store: Store, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None]
) -> None:
    make(store.path(ODD))
    assert [row["run_id"] for row in leaderboard.current_rows(store)] == [GOOD]
    assert [record.run_id for record in store.all()] == [GOOD]
    assert len(caplog.records) == 1
    assert "no file" in caplog.text
    assert not os.path.lexists(store.path(ODD))


def test_a_newer_record_is_left_out_of_views_and_never_written_over(
    store: Store, make_record: Callable[..., Record], caplog: pytest.LogCaptureFixture
) -> None:
    store.save(make_record(ODD, schema=SCHEMA_VERSION + 1))
    for _ in range(2):
        assert [record.run_id for record in store.all()] == [GOOD]
        leaderboard.rebuild(store)
    assert len(caplog.records) == 1
    assert "newer peftbench" in caplog.text
    with pytest.raises(UsageError, match="newer peftbench"):
        store.load(ODD)
    assert store.path(ODD).exists()


def test_the_table_of_a_filed_run_may_fail(
    store: Store,
    make_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (store.out_dir / "leaderboard.csv").mkdir()
    leaderboard.refresh(store)
    store.save(make_record("feed"))
    monkeypatch.setattr(leaderboard, "row", lambda record: 1 / 0)
    leaderboard.refresh(store)
    assert "ZeroDivisionError" in caplog.text
    assert [record.getMessage().count("records are intact") for record in caplog.records] == [1, 1]


def test_scores_do_not_take_the_place_of_facts(make_record: Callable[..., Record]) -> None:
    row = leaderboard.row(make_record(scores={"model": 5.0, "run_id": 1.0, "f1_weighted": 3.0}))
    assert (row["model"], row["run_id"], row["f1_weighted"]) == ("minilm", "0123456789abcdef", 3.0)


def test_what_is_written_is_what_is_read(store: Store, make_record: Callable[..., Record]) -> None:
    for record in (
        make_record(score=None, scores={"r": float("nan")}),
        make_record(tuning={"trials": 3, "values": {}}),
    ):
        store.save(record)
        assert encode(store.load(record.run_id) or make_record()) == encode(record)
