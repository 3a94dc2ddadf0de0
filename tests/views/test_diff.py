"""`peftbench diff`: everything that differs between two runs and nothing else, by prefix ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_board import fill
from made_up_records import a_record

from peftbench.errors import UsageError
from peftbench.records.store import Store
from peftbench.views.diff import compare_answers, diff_command, differences, mcnemar


def test_what_differs_is_told_by_part() -> None:
    method = {"name": "lora", "tuner": {"rank": 8}}
    a = a_record("a" * 16, config={"method": method, "seed": 1, "out_dir": "results"}, score=70.0)
    b = a_record("b" * 16, config={"method": {**method, "tuner": {"rank": 16}}, "seed": 2, "out_dir": "x"}, score=70.0)
    b.environment = {**b.environment, "versions": {"torch": "2.14.0", "peftbench": "0.1.0"}, "device": "cuda"}
    b.seconds = {**b.seconds, "train": 50.0}
    found = [(d.part, d.key, d.a, d.b) for d in differences(a, b)]
    assert found == [
        ("settings", "method.tuner.rank", 8, 16),
        ("seeds", "seed", 1, 2),
        ("other config", "out_dir", "results", "x"),
        ("versions", "torch", "2.13.0", "2.14.0"),
        ("environment", "device", "cpu", "cuda"),
        ("costs", "seconds.train", 54.25, 50.0),
    ]
    assert differences(a, a) == []


def test_answers_are_compared_item_by_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    one, other, *_ = fill(store, ["lora", "full"], ("eng",), (5,), draws=1, items=40)
    answers = compare_answers(store, one, other)
    assert answers["items"] == 40
    assert one.score is not None
    assert other.score is not None
    assert answers["only_a"] - answers["only_b"] == pytest.approx(40 * (one.score - other.score) / 100)
    assert answers["p"] == pytest.approx(mcnemar(answers["only_a"], answers["only_b"]))
    ids = [one.run_id[:-1] + one.run_id[-1], other.run_id]
    assert diff_command([*ids, "--out-dir", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answers"] == answers
    assert {"part": "settings", "key": "method.name", "a": "lora", "b": "full"} in told["differences"]
    assert diff_command([*ids, "--out-dir", str(tmp_path)]) == 0
    assert "McNemar p =" in capsys.readouterr().out


def test_mcnemar_is_the_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(10, 0) == pytest.approx(2 / 2**10)


def test_a_prefix_names_one_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id in ("abc1" + "0" * 12, "abc2" + "0" * 12):
        store.save(a_record(run_id))
    assert diff_command(["abc1", "abc2", "--out-dir", str(tmp_path), "--json"]) == 0
    with pytest.raises(UsageError, match="diff abc: 2 runs begin so: abc1"):
        diff_command(["abc", "abc2", "--out-dir", str(tmp_path)])
    with pytest.raises(UsageError, match="diff fff: no such run"):
        diff_command(["fff", "abc2", "--out-dir", str(tmp_path)])
    with pytest.raises(UsageError, match=r"Did you mean `abc[12]0{12}`"):
        diff_command(["abc1", "abc3" + "0" * 12, "--out-dir", str(tmp_path)])
    with pytest.raises(UsageError, match="there is no folder"):
        diff_command(["abc1", "abc2", "--out-dir", str(tmp_path / "elsewhere")])
