"""What one command keeps for the next: a value for its key alone, whatever other processes and the disk do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from peftbench import cache
from peftbench.cache import Cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def database(folder: Path) -> Path:
    (found,) = folder.glob("*.sqlite")
    return found


def at_once(*works: Callable[[], object]) -> None:
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_values_come_back_for_their_kind_and_key_alone() -> None:
    Cache("things").put(["x", 1], {"a": [1, None, 2.5, float("inf")], "é\udce9": True})
    assert Cache("things").get(["x", 1]) == {"a": [1, None, 2.5, float("inf")], "é\udce9": True}
    assert Cache("things").get(["x", 2]) is None
    assert Cache("things").get(["x", "1"]) is None
    assert Cache("others").get(["x", 1]) is None


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_arrays_come_back_as_they_were(dtype: str) -> None:
    value = np.arange(12).reshape(3, 4).T.astype(dtype)  # not contiguous
    Cache("arrays").put("x", value)
    found = Cache("arrays").get("x")
    assert found.dtype == value.dtype
    assert np.array_equal(found, value)


@pytest.mark.parametrize("value", [{1: "a"}, (1, 2), [(1,)], object(), None, np.float32(1), {"a": np.zeros(2)}])
def test_what_would_come_back_as_something_else_is_not_kept(value: object) -> None:
    Cache("things").put("x", value)
    assert Cache("things").get("x") is None


def test_a_later_value_takes_the_place_of_an_earlier_one() -> None:
    Cache("things").put("x", 1)
    Cache("things").put("x", 2)
    assert Cache("things").get_many(["y", "x", "x"]) == [None, 2, 2]


def test_once_is_once_and_keeps_what_it_may() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    things = Cache("things")
    assert [things.once("x", make, keep=lambda: False), things.once("x", make), things.once("x", make)] == [1, 2, 2]


def test_fill_computes_each_missing_key_once() -> None:
    things, asked = Cache("things"), []
    things.put("b", "B")

    def compute(missing: list[int]) -> list[str]:
        asked.append(missing)
        return [keys[i].upper() for i in missing]

    keys = ["a", "b", "c", "a"]
    assert things.fill(keys, compute) == ["A", "B", "C", "A"]
    assert things.fill(keys, compute) == ["A", "B", "C", "A"]
    assert asked == [[0, 2]]
    assert things.fill([], compute) == []


def test_what_one_works_out_the_other_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PATIENCE", 600.0)
    asked: list[int] = []

    def fill() -> None:
        Cache("things").fill(["a", "b"], lambda missing: [asked.append(i) or i for i in missing])

    at_once(*[fill] * 4)
    assert sorted(asked) == [0, 1]


WRITER = """
import sys
from peftbench import cache
from peftbench.cache import Cache
cache.PATIENCE = 600.0  # else a value is given up where another is held up while it writes
for number in range(40):
    Cache("things").put([int(sys.argv[1]), number], "x" * 3000)
"""


def test_processes_that_write_at_once_lose_nothing() -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    keys = [[writer, number] for writer in range(3) for number in range(40)]
    assert Cache("things").get_many(keys) == ["x" * 3000] * 120


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_a_connection_of_its_own() -> None:
    Cache("things").put("x", 1)
    child = os.fork()
    if not child:
        Cache("things").put("y", 2)
        os._exit(0 if Cache("things").get("x") == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert Cache("things").get_many(["x", "y"]) == [1, 2]


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, None])
def test_damage_is_set_aside_and_a_new_beginning_made(folder: Path, content: bytes | None) -> None:
    Cache("things").put("x", "value")
    path = database(folder)
    path.write_bytes(path.read_bytes()[:6000] if content is None else content)
    cache._forget_connection()
    assert Cache("things").get("x") is None
    Cache("things").put("x", "again")
    Cache("things").put("x", "again")
    assert Cache("things").get("x") == "again"
    assert len(list(folder.iterdir())) <= 2


def test_a_bit_that_fell_over_is_seen(folder: Path) -> None:
    Cache("things").put("x", "the true value")
    path = database(folder)
    path.write_bytes(path.read_bytes().replace(b"the true value", b"the lost value"))
    cache._forget_connection()
    assert Cache("things").get("x") is None


def test_a_place_that_cannot_be_written_and_one_that_was_deleted_are_no_trouble(folder: Path) -> None:
    folder.write_text("a file in the way")
    Cache("things").put("x", 1)
    assert Cache("things").get("x") is None
    assert Cache("things").fill(["x"], lambda missing: missing) == [0]
    folder.unlink()
    Cache("things").put("x", 1)
    database(folder).unlink()
    Cache("things").put("y", 2)  # lost with the file
    Cache("things").put("y", 2)
    assert Cache("things").get("y") == 2


def test_another_that_does_not_let_go_costs_a_value(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setattr(cache, "PATIENCE", 0.05)
    Cache("things").put("x", 1)
    other = sqlite3.connect(database(folder), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    cache._forget_connection()
    Cache("things").put("y", 2)
    assert Cache("things").get("x") is None
    other.close()
    assert Cache("things").get_many(["x", "y"]) == [1, None]


def test_the_oldest_of_a_kind_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT", 1000)
    Cache("others").put("x", "o" * 900)
    for number in range(12):
        Cache("things").put(number, "x" * 98)  # 100 bytes
    kept = [number for number in range(12) if Cache("things").get(number)]
    assert kept == list(range(12 - len(kept), 12))
    assert len(kept) <= 10
    assert Cache("others").get("x")
