"""The cache of converted weights: made once, whole or not at all, and an unwritable place is said plainly."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from peftbench.cache import build_once, cache_dir
from peftbench.errors import UsageError


def test_environment_variable_and_default(monkeypatch, own_cache):
    assert cache_dir() == own_cache
    monkeypatch.setenv("PEFTBENCH_CACHE", "")
    assert cache_dir() == Path.home() / ".cache" / "peftbench"


def test_built_once(own_cache):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "weights").write_text("w")

    first, second = build_once("net-1", build), build_once("net-1", build)
    assert first == second == own_cache / "models" / "net-1"
    assert len(calls) == 1
    assert (first / "weights").read_text() == "w"


def test_a_build_that_dies_leaves_nothing_and_is_done_anew():
    def dies(folder: Path) -> None:
        (folder / "half").write_text("h")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once("net", dies)
    folder = build_once("net", lambda target: (target / "whole").write_text("w"))
    assert [f.name for f in folder.iterdir()] == ["whole"]


def _append(log: str) -> None:
    def build(folder: Path) -> None:
        with open(log, "a") as stream:
            stream.write("built\n")

    build_once("shared", build)


def test_processes_build_it_together_only_once(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append, args=(str(log),)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 4
    assert log.read_text() == "built\n"


def test_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="PEFTBENCH_CACHE"):
        build_once("net", lambda folder: None)


def test_full_disk_names_the_variable_and_leaves_nothing(own_cache):
    def build(folder: Path) -> None:
        (folder / "half").write_text("h")
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"No space left.*PEFTBENCH_CACHE"):
        build_once("net", build)
    assert not list((own_cache / "models").glob("*net*/*"))
