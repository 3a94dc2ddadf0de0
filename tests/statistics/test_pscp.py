"""PSCP against values worked out by hand from the formula and the released script's inputs (LLaMA-3-8B)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.errors import UsageError
from peftbench.records.store import Store
from peftbench.statistics.pscp import PAPER, Constants, of_rows, pscp, read_constants
from peftbench.views.leaderboard_command import leaderboard_command

costs = st.floats(0, 1e12)


@pytest.mark.parametrize(
    ("score", "params", "memory", "flops", "beta", "value"),
    [
        (80.1, 14_680_064, 27.75, 8.38, 1, 60.08),  # LoRA: merged, so no extra inference
        (77.8, 266_240, 27.43, 8.38, 1, 60.19),  # LNTuning
        (74.7, 196_608, 28.41, 8.69, 1, 55.62),  # IA3
        (50.0, 409_600, 42.47, 10.05, 1, 29.49),  # prompt tuning
        (80.1, 14_680_064, 27.75, 8.38, 2, 45.06),
    ],
)
def test_values_of_the_papers_costs(score, params, memory, flops, beta, value):
    constants = Constants(beta_params=beta, beta_inference=beta, beta_memory=beta)
    found = pscp(score, params, memory, (flops - 8.38) / 8.38, constants)
    assert found.value == pytest.approx(value, abs=0.005)
    assert found.value == pytest.approx(score * found.params * found.inference * found.memory)


def test_a_cost_of_one_constant_halves_the_score():
    assert pscp(80, PAPER.params, 0, 0).value == pytest.approx(40)
    assert pscp(80, 0, PAPER.memory, 0).value == pytest.approx(40)
    assert pscp(80, 0, 0, PAPER.inference).value == pytest.approx(40)


@given(st.floats(0, 100), costs, costs, costs, costs)
def test_more_cost_never_helps(score, params, memory, inference, more):
    base = pscp(score, params, memory, inference).value
    assert 0 <= base <= score
    for dearer in ((params + more, memory, inference), (params, memory + more, inference)):
        assert pscp(score, *dearer).value <= base


def test_what_was_not_measured_does_not_count():
    found = pscp(50, 1000, None)
    assert found.memory is None
    assert found.inference is None
    assert found.value == pytest.approx(50, rel=1e-5)
    with pytest.raises(ValueError, match="memory"):
        pscp(50, 0, -1)


def test_rows_of_the_leaderboard():
    shared = {"model": "minilm", "task": "demo_news", "device": "cpu", "score": 80.0, "trainable_params": 1000}
    rows = [
        {**shared, "method": "full", "eval_seconds": 2.0, "train_peak_mib": 1024.0},
        {**shared, "method": "prompt_tuning", "eval_seconds": 3.0, "train_peak_mib": 1024.0},
        {**shared, "method": "full", "task": "other", "eval_seconds": 9.0, "train_peak_mib": None},
        {**shared, "method": "dept", "score": None},
    ]
    full, prompt, alone, failed = of_rows(rows, Constants(inference=0.5, memory=1.073741824), timed=True)
    assert full.inference == 1
    assert full.memory == pytest.approx(0.5)
    assert prompt.inference == pytest.approx(0.5)  # half as slow again, and C_i is a half
    assert alone.inference is None
    assert alone.memory is None
    assert failed is None
    assert all(found.inference is None for found in of_rows(rows)[:3])
    floors = [{**row, "model": "none"} for row in rows[:2]]  # no backbone, so none to compare with
    assert all(found.inference is None for found in of_rows(floors, timed=True))


def test_constants_from_text():
    assert read_constants("") == PAPER
    assert read_constants("params=2e7, memory=2,beta=2") == Constants(2e7, PAPER.inference, 2, 2, 2, 2)
    assert "C_p 2e+07 parameters" in read_constants("params=2e7").describe()
    assert "beta 1, 1, 3" in read_constants("beta_memory=3").describe()
    assert "inference not counted" in PAPER.describe(timed=False)


def test_leaderboard_shows_it_with_its_constants(tmp_path, capsys, make_record):
    store = Store(tmp_path)
    store.save(make_record("a" * 16, score=80.0))
    store.save(make_record("b" * 16, score=81.0, parameters={"module": 10**9, "head": 0, "total": 10**9}))
    leaderboard_command(["--out-dir", str(tmp_path), "--pscp", "memory=0.4,beta=2", "--sort", "pscp:desc"])
    text = capsys.readouterr().out
    assert text.index("a" * 16) < text.index("b" * 16)
    assert "PSCP with C_p 5e+08 parameters, C_m 0.4 GB, inference not counted, beta 2" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [("parms=1", "Did you mean `params`"), ("memory=lots", "`lots` is not a number"), ("beta=-1", "above 0")],
)
def test_wrong_constants(text, words):
    with pytest.raises(UsageError, match=words):
        read_constants(text)
