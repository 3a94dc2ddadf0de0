"""leaderboard.csv: complete, in order, inert, cheap to make again; and the view of it on the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas
import pytest

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.records import leaderboard
from peftbench.records.ids import versions
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.views.leaderboard_command import leaderboard_command

IN_THE_ISSUE = (
    "run_id, status, model, method, task, subset, protocol, shots, data_seed, seed, metric, score, f1_macro, "
    "f1_weighted, accuracy, trainable_params, train_seconds, eval_seconds, total_seconds, train_peak_mib, "
    "eval_peak_mib, step_flops, saved_bytes, tokens_per_second, device, n_devices, precision, git_sha, dirty, "
    "data_sha, versions, created"
)
ISSUE_COLUMNS = IN_THE_ISSUE.split(", ")
COLUMNS = [
    *ISSUE_COLUMNS,
    "train_cpu_seconds",
    "tuning_trials",
    "tuning_seconds",
    "seen",
    "test_texts",
    "tricks",
    "noise",
    "model_revision",
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """In a cache of its own: another process that holds the common one for long costs what is to be kept."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "results")


def table(store: Store) -> list[list[str]]:
    return list(csv.reader(io.StringIO((store.out_dir / "leaderboard.csv").read_bytes().decode(), newline="")))


def test_columns_and_values(store: Store, make_record: Callable[..., Record]) -> None:
    store.save(make_record())
    head, line = table_of(store)
    assert head == COLUMNS
    cells = dict(zip(head, line, strict=True))
    assert cells["score"] == "82.93708474831107"
    assert cells["trainable_params"] == str(15360 + 2310)
    assert cells["train_seconds"] == "54.25"
    assert cells["train_peak_mib"] == "412.5"
    assert cells["saved_bytes"] == "92274688"
    assert cells["dirty"] == "false"
    assert cells["data_sha"] == "a" * 64
    assert cells["versions"] == "peftbench=0.1.0 torch=2.13.0"


def table_of(store: Store) -> list[list[str]]:
    leaderboard.rebuild(store)
    return table(store)


def test_own_metrics_of_tasks_stand_after_the_common_ones(store: Store, make_record: Callable[..., Record]) -> None:
    store.save(make_record("aa"))
    store.save(make_record("bb", task="glue", subset="cola", scores={"matthews": -3.5, "accuracy": 60.0}))
    head, cola, news = table_of(store)
    assert head == [*COLUMNS[:15], "matthews", *COLUMNS[15:]]
    assert [cola[15], news[15]] == ["-3.5", ""]


def test_a_failed_run_has_a_row(store: Store) -> None:
    bare = Record("aa", "failed", "2026-11-21T08:00:00+00:00", "m", "lora", "t", "", "p", 10, 1, 1, "accuracy", None)
    store.save(bare)
    head, line = table_of(store)
    cells = dict(zip(head, line, strict=True))
    assert (cells["status"], cells["score"], cells["trainable_params"], cells["dirty"]) == ("failed", "", "", "")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", " =1", "=cmd|' /C calc'!A0"])
def test_text_that_a_spreadsheet_would_run_is_inert(
    store: Store, make_record: Callable[..., Record], text: str
) -> None:
    store.save(make_record(model=text))
    head, line = table_of(store)
    assert dict(zip(head, line, strict=True))["model"] == "'" + text


def test_quotes_commas_and_line_ends_come_back(store: Store, make_record: Callable[..., Record]) -> None:
    nasty = 'a "b", c\r\nd\nЖ <script>'
    store.save(make_record(model=nasty))
    leaderboard.rebuild(store)
    frame = pandas.read_csv(store.out_dir / "leaderboard.csv")
    assert frame["model"].tolist() == [nasty]
    assert frame["score"].tolist() == [82.93708474831107]
    assert (store.out_dir / "leaderboard.csv").read_bytes().endswith(b"\r\n")


def test_a_surrogate_costs_no_table(store: Store, make_record: Callable[..., Record]) -> None:
    store.save(make_record(model="bad\udce9name"))
    assert len(table_of(store)) == 2


def test_only_new_records_are_read(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(5):
        store.save(make_record(f"a{index}", seed=index))
    leaderboard.rebuild(store)
    read: list[str] = []
    real = Store.read
    monkeypatch.setattr(Store, "read", lambda self, path: read.append(path.name) or real(self, path))
    leaderboard.rebuild(store)
    assert read == []
    store.save(make_record("a3", seed=99))
    store.save(make_record("b", seed=100))
    assert sorted(line[9] for line in table_of(store)[1:]) == ["0", "1", "100", "2", "4", "99"]
    assert sorted(read) == ["a3.json", "b.json"]
    store.path("a0").unlink()
    assert len(table_of(store)) == 6
    assert len(read) == 2


def test_same_size_and_time_but_another_file_is_read_again(store: Store, make_record: Callable[..., Record]) -> None:
    store.save(make_record("aa", seed=1))
    leaderboard.rebuild(store)
    stat = store.path("aa").stat()
    store.save(make_record("aa", seed=2))
    os.utime(store.path("aa"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.path("aa").stat().st_size == stat.st_size
    assert table_of(store)[1][9] == "2"


def test_a_damaged_cache_costs_nothing(
    store: Store, make_record: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    store.save(make_record())
    before = table_of(store)
    (cache,) = (tmp_path / "cache").glob("*.sqlite")
    content = cache.read_bytes()
    assert b'"score": 82.9' in content
    for damage in (content.replace(b'"score": 82.9', b'"score": 92.9'), content[:5000], b"no database"):
        cache.write_bytes(damage)
        assert leaderboard.current_rows(store) == leaderboard.rows(store.all())
        assert table_of(store) == before


def test_a_csv_that_was_changed_or_deleted_is_made_anew(store: Store, make_record: Callable[..., Record]) -> None:
    store.save(make_record())
    before = table_of(store)
    path = leaderboard.rebuild(store)
    path.write_text("mine")
    assert table_of(store) == before
    path.unlink()
    assert table_of(store) == before


def test_runs_of_older_results_versions_are_marked_and_left_out(
    store: Store, make_record: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    """`self_training` and `lite` have raised theirs since 0.1.0; LoRA, its stage and its loop have not."""
    raised, same = (
        asdict(compose([f"method={name}", "model=tiny-bert", "task=demo_news"])) for name in ("list", "lora")
    )
    store.save(make_record("aa", config=raised, method="list"))
    store.save(make_record("bb", config=raised, method="list", identity={"versions": versions(raised)}))
    store.save(make_record("cc", config=same, method="lora"))
    assert {r["run_id"] for r in leaderboard.current_rows(store) if r["outdated"]} == {"aa"}
    for options, shown in ([], {"bb", "cc"}), (["--all"], {"aa", "bb", "cc"}):
        assert leaderboard_command(["--json", "--out-dir", str(store.out_dir), *options]) == 0
        printed = capsys.readouterr()
        assert {r["run_id"] for r in json.loads(printed.out)} == shown
        assert ("1 run of older results versions left out; --all shows them" in printed.err) is not bool(options)


def test_a_damaged_record_leaves_the_table(
    store: Store, make_record: Callable[..., Record], caplog: pytest.LogCaptureFixture
) -> None:
    store.save(make_record("aa"))
    store.save(make_record("bb"))
    assert len(table_of(store)) == 3
    store.path("aa").write_bytes(store.path("aa").read_bytes()[:-20])
    assert [line[0] for line in table_of(store)[1:]] == ["bb"]
    assert "damaged" in caplog.text


def test_a_lock_held_elsewhere_costs_a_warning_not_the_run(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from filelock import FileLock

    store.save(make_record())
    monkeypatch.setattr(leaderboard, "_LOCK_SECONDS", 0.05)
    with FileLock(store.out_dir / ".leaderboard.lock"):
        leaderboard.rebuild(store)
    assert "held by another process" in caplog.text
    assert len(table_of(store)) == 2


def test_without_locks_it_is_looked_at_again(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that knows no locks, a record that comes while the table is written is in it all the same."""
    import filelock

    def unsupported(*_: object, **__: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", unsupported)
    store.save(make_record())
    real = leaderboard.write_atomic

    def late(path: Path, content: bytes, durable: bool = True) -> None:
        monkeypatch.setattr(leaderboard, "write_atomic", real)
        store.save(make_record("feed"))
        real(path, content, durable)

    monkeypatch.setattr(leaderboard, "write_atomic", late)
    path = leaderboard.rebuild(store)
    assert path.read_bytes() == leaderboard.to_csv(leaderboard.rows(store.all()))
    assert b"feed" in path.read_bytes()


def test_in_a_sweep_few_of_the_rebuilds_are_done_and_the_last_always(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = leaderboard.to_csv
    monkeypatch.setattr(leaderboard, "to_csv", lambda rows: made.append(len(rows)) or real(rows))
    monkeypatch.setattr(leaderboard, "SPARE", 1e6)

    @leaderboard.rebuilt_sparingly()
    def sweep() -> None:
        for index in range(5):
            store.save(make_record(f"a{index}", seed=index))
            leaderboard.rebuild(store)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep()
    assert made == [1, 5]
    store.save(make_record("b"))
    leaderboard.rebuild(store)
    assert made == [1, 5, 6]


def test_rows_of_some_runs_are_those_of_the_leaderboard(store: Store, make_record: Callable[..., Record]) -> None:
    for index in range(4):
        store.save(make_record(f"a{index}", seed=index))
    leaderboard.rebuild(store)
    store.save(make_record("a1", seed=99))  # changed since
    every = {r["run_id"]: r for r in leaderboard.current_rows(store)}
    assert leaderboard.rows_of(store, ["a1", "a2", "gone"]) == {"a1": every["a1"], "a2": every["a2"]}
    assert every["a1"]["seed"] == 99


def test_rows_of_the_newest_records(store: Store, make_record: Callable[..., Record]) -> None:
    for index in range(6):
        store.save(make_record(f"a{index}", seed=index))
        os.utime(store.path(f"a{index}"), (1000 + index, 1000 + index))
    os.utime(store.path("a0"), (2000, 2000))
    assert {r["run_id"] for r in leaderboard.newest_rows(store, 3)} == {"a0", "a4", "a5"}
    assert leaderboard.newest_rows(store, 6) == leaderboard.current_rows(store)


def test_a_full_disk_is_said_and_the_old_table_stays(
    store: Store, make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(make_record("aa"))
    before = table_of(store)
    store.save(make_record("bb"))

    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UsageError, match=r"leaderboard\.csv.*disk is full"):
        leaderboard.rebuild(store)
    monkeypatch.undo()
    assert table(store) == before
    assert len(table_of(store)) == 3


# --- means


def runs(make_record: Callable[..., Record]) -> list[Record]:
    """Two ranks of LoRA over three draws each; one run diverged."""
    return [
        make_record(
            f"{rank:04x}{draw:04x}",
            method="lora",
            data_seed=draw,
            score=80.0 + rank + draw,
            status="diverged" if (rank, draw) == (16, 3) else "done",
            config={"method": {"name": "lora", "tuner": {"rank": rank}}, "seed": 2, "data_seed": draw},
        )
        for rank in (8, 16)
        for draw in (1, 2, 3)
    ]


def test_means_are_over_seeds_only(make_record: Callable[..., Record]) -> None:
    """Runs that differ in anything but their seeds are never averaged."""
    low, high = leaderboard.group(leaderboard.rows(runs(make_record)))
    assert (low["n"], low["draws"], low["seeds"], low["failed"]) == (3, 3, 1, 0)
    assert (low["score"], low["score_sd"], low["score_min"], low["score_max"]) == (90.0, 1.0, 89.0, 91.0)
    assert (high["n"], high["failed"], high["score"]) == (2, 1, 97.5)
    assert high["score_sd"] == pytest.approx(0.5**0.5)
    assert low["variant"] != high["variant"]


def test_one_run_has_no_spread(make_record: Callable[..., Record]) -> None:
    (only,) = leaderboard.group(leaderboard.rows([make_record()]))
    assert (only["n"], only["score_sd"]) == (1, None)


# --- the command


def view(store: Store, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert leaderboard_command(["--out-dir", str(store.out_dir), *argv]) == 0
    return capsys.readouterr().out


@pytest.fixture
def filled(store: Store, make_record: Callable[..., Record]) -> Store:
    for record in runs(make_record):
        store.save(record)
    store.save(make_record("feed", subset="hau", score=70.0))
    return store


def test_json_filters_and_order(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*argv: str) -> list[str]:
        return [r["run_id"] for r in json.loads(view(filled, capsys, "--json", *argv))]

    assert len(ids()) == 7
    assert ids("--subset", "hau") == ["feed"]
    assert ids("--method", "lora", "--data-seed", "1,2", "--sort", "score:desc", "--limit", "2") == [
        "00100002",
        "00100001",
    ]
    assert ids("--status", "diverged") == ["00100003"]
    assert ids("--sort", "score")[0] == "feed"


def test_table_shows_what_differs(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    text = view(filled, capsys, "--group")
    assert "task=masakhanews" in text.splitlines()[0]
    assert "90.0 ± 1.0" in text
    named = r"lora \w+="  # two rows would look alike without what differs
    assert re.search(named, text)
    assert not re.search(named, view(filled, capsys, "--group", "--subset", "hau"))


def test_long_tables_say_that_there_is_more(
    store: Store, make_record: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(103):
        store.save(make_record(f"{index:04x}", seed=index))
    assert "3 more; `--limit 103` shows all." in view(store, capsys)
    assert "more;" not in view(store, capsys, "--limit", "103")


def test_no_runs_yet(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.out_dir.mkdir()
    assert "No runs in" in view(store, capsys)
    assert json.loads(view(store, capsys, "--json")) == []
    assert not any(store.out_dir.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "lroa"], "No run has method=`lroa`. Did you mean `lora`?"),
        (["--sort", "scor"], "no column `scor`. Did you mean `score`?"),
        (["--sort", "score:down"], "`asc` or `desc`"),
        (["--limit", "0"], "not a whole number above 0"),
        (["--metod", "lora"], "--metod: no such option. Did you mean `--method`?"),
    ],
)
def test_wrong_options(filled: Store, argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        leaderboard_command(["--out-dir", str(filled.out_dir), *argv])
    assert message in str(raised.value)


def test_names_are_shown_not_obeyed(
    store: Store, make_record: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    store.save(make_record(model="[red]x[/red]\x1b[31m"))
    text = view(store, capsys)
    assert "[red]x[/red]" in text
    assert "\x1b[31m" not in text


def test_a_terminal_without_unicode(filled: Store) -> None:
    argv = ["--out-dir", str(filled.out_dir), "--group"]
    code = f"from peftbench.views.leaderboard_command import leaderboard_command; leaderboard_command({argv!r})"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    assert b"90.0 +- 1.0" in done.stdout


def test_no_heavy_imports() -> None:
    code = (
        "import sys, peftbench.views.leaderboard_command, peftbench.views.summary, peftbench.records.tracking, "
        "peftbench.records.predictions, peftbench.measure.environment, peftbench.measure.memory\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'sklearn', 'wandb', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
