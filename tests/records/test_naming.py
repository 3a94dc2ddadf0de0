"""Rows that differ in a setting are named by what differs, with few keys, in every block the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_records import a_record

from peftbench.records import leaderboard
from peftbench.records.naming import method_names, short_value, tell_apart
from peftbench.records.store import Store
from peftbench.views.leaderboard_command import leaderboard_command


def lora(rank: int = 8, lr: float = 2e-3, **trainer: Any) -> dict[str, Any]:
    stated = {"stages": ["supervised"], "formulation": {"name": "head"}, "needs_model": True}
    method = {
        "name": "lora",
        **stated,
        "tuner": {"name": "lora", "rank": rank, "alpha": 2 * rank},
        "lr": {"module": lr},
    }
    return {"method": method, "trainer": {"steps": 40, **trainer}, "shots": 5, "seed": 1, "out_dir": "results"}


def fill(store: Store, configs: list[dict[str, Any]], method: str = "lora", **facts: Any) -> None:
    for i, config in enumerate(configs):
        for seed in (1, 2):
            run_id = f"{len(store.all()):016x}"
            record = a_record(
                run_id, method=method, config={**config, "seed": seed}, seed=seed, score=70.0 + i, **facts
            )
            record.predictions = {}
            store.save(record)


def names(store: Store) -> set[str]:
    return set(method_names(store, leaderboard.current_rows(store)).values())


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([lora(), lora(lr=1e-3)], {"lora lr=2e-3", "lora lr=1e-3"}),
        ([lora(), lora(16)], {"lora rank=8", "lora rank=16"}),  # alpha goes with it and says no more
        (
            [lora(), lora(16), lora(16, lr=1e-3)],
            {"lora rank=8 lr=2e-3", "lora rank=16 lr=2e-3", "lora rank=16 lr=1e-3"},
        ),
        ([lora(), lora(steps=160)], {"lora steps=40", "lora steps=160"}),
        ([lora(), lora(clip=1.0)], {"lora clip=none", "lora clip=1"}),
        ([lora()], {"lora"}),
    ],
)
def test_what_differs_is_the_name(tmp_path: Path, configs: list[dict[str, Any]], expected: set[str]) -> None:
    fill(Store(tmp_path), configs)
    assert names(Store(tmp_path)) == expected


def test_one_config_has_one_name_in_every_block(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store, [lora(), lora(16)], subset="eng")
    fill(store, [lora(16)], subset="swa")
    fill(store, [{"method": {"name": "full"}}], method="full")
    rows = leaderboard.current_rows(store)
    named = method_names(store, rows)
    assert {named[r["variant"]] for r in rows if r["subset"] == "swa"} == {"lora rank=16"}
    assert "full" in named.values()


def test_what_no_config_says_is_told_by_data_or_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    fill(store, [lora()], data={"sha256": "a" * 64})
    fill(store, [lora()], data={"sha256": "b" * 64})
    assert names(store) == {"lora data=aaaaaaaa", "lora data=bbbbbbbb"}


def test_values_are_short() -> None:
    shown = [short_value(v) for v in (0.001, 2e-5, 0.1, 3e5, 16, True, None, [1, 2], "x" * 60)]
    assert shown == ["1e-3", "2e-5", "0.1", "3e5", "16", "true", "none", "[1, 2]", "x" * 23 + "…"]


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), min_size=2, max_size=8))
def test_names_differ_exactly_where_configs_do(configs: list[dict[str, int]]) -> None:
    leaves: dict[str, dict[str, Any]] = {str(i): dict(c) for i, c in enumerate(configs)}
    found = tell_apart(leaves, [list(leaves)])
    for one in leaves:
        for other in leaves:
            same = all(leaves[one].get(k) == leaves[other].get(k) for k in "abcd")
            assert (found[one] == found[other]) == same


def test_group_has_intervals_ties_and_says_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    fill(store, [lora(), lora(16)])
    assert leaderboard_command(["--out-dir", str(tmp_path), "--group"]) == 0
    out = capsys.readouterr().out
    assert "lora rank=16" in out
    assert "±: standard deviation of the score over runs" in out
    assert "interval: 95 %" in out
    assert leaderboard_command(["--out-dir", str(tmp_path), "--group", "--csv"]) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert row["method"] == "lora rank=8"
    assert float(row["score"]) == 70.0
    assert {"score_sd", "score_low", "score_high", "ties"} <= row.keys()
    assert leaderboard_command(["--out-dir", str(tmp_path), "--group", "--latex"]) == 0
    out = capsys.readouterr().out
    assert r"\begin{tabular}" in out
    assert r"lora rank=16 &" in out
    assert r"f1\_weighted" in out
