"""Diagnosis: each trouble is seen, named with its knob, and not seen where there is none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from peftbench.records.diagnosis import diagnose, seed_outliers
from peftbench.records.record import Record
from peftbench.records.store import decode, encode
from peftbench.views.summary import print_summary

GOOD = [(label, label) for label in ("sports", "health", "politics") for _ in range(20)]


def warnings_of(record: Record, answers: Any = GOOD, tokenisation: dict[str, Any] | None = None) -> list[str]:
    return diagnose(record, answers, tokenisation or {})["warnings"]


def test_a_sound_run_has_no_warning(make_record: Callable[..., Record]) -> None:
    tokenisation = {
        "max_length": 128,
        "cut": {"test": [5, 60]},
        "emptied": {"test": [0, 60]},
        "label_tokens": {"sports": ["▁sports"]},
    }
    record = make_record(dev_score=84.0, curves={"gradient/lora": [1.0], "update/lora": [0.1], "weight/lora": [10.0]})
    found = diagnose(record, GOOD, tokenisation)
    assert found["warnings"] == []
    assert found["majority"] == {"label": "health", "share": pytest.approx(1 / 3), "target_share": pytest.approx(1 / 3)}
    assert found["truncation"] == {"max_length": 128, "test": pytest.approx(5 / 60), "emptied": {"test": 0.0}}
    assert found["dev_test_gap"] == pytest.approx(84.0 - 82.937, abs=0.001)
    assert found["norms"] == {"lora": {"gradient": 1.0, "update_ratio": pytest.approx(0.01)}}


def test_what_was_not_measured_is_left_out(make_record: Callable[..., Record]) -> None:
    assert diagnose(make_record(), [], {}) == {"warnings": []}


def test_collapse_names_steps_and_rates(make_record: Callable[..., Record]) -> None:
    answers = [(t, "sports" if i % 15 else t) for i, (t, _) in enumerate(GOOD)]
    (warning,) = warnings_of(make_record(lr={"prompt": 0.03}), answers)
    assert warning.startswith("97 % of the predictions are `sports`, as are 33 % of the test items: raise ")
    assert "trainer.steps (160)" in warning
    assert "method.lr.prompt (0.03)" in warning


def test_the_knobs_are_those_of_the_last_stage_and_of_the_config(make_record: Callable[..., Record]) -> None:
    """The length of a distillation is not `trainer.steps`, and a method for any tuner has one rate for all groups."""
    stages = [
        {"name": "ensemble", "status": "done", "steps": 400, "seconds": {}},
        {"name": "distillation", "status": "done", "steps": 90, "seconds": {}},
    ]
    config = {"method": {"name": "pet", "lr": {"default": 5e-5, "head": 1e-3}}}
    still = {f"{kind}/{group}": [1e-9 if kind == "update" else 1.0] for group in ("backbone", "head", "lora")
             for kind in ("gradient", "update", "weight")}  # fmt: skip
    rates = {"backbone": 5e-5, "lora": 5e-5, "head": 1e-3}
    record = make_record(stages=stages, config=config, lr=rates, curves=still)
    collapse, *norms = warnings_of(record, [(t, "sports") for t, _ in GOOD])
    knobs = "raise method.pet.classifier_steps (90) or method.lr.default (5e-05) or method.lr.head (0.001), and"
    assert knobs in collapse
    ends = sorted(warning.rsplit("raise ", 1)[1] for warning in norms)
    assert ends == ["method.lr.default (5e-05)", "method.lr.default (5e-05)", "method.lr.head (0.001)"]


def test_one_class_is_no_collapse_where_the_test_set_is_so(make_record: Callable[..., Record]) -> None:
    assert warnings_of(make_record(), [("no", "no")] * 95 + [("yes", "no")] * 5) == []


def test_a_floor_without_a_network_may_answer_one_class(make_record: Callable[..., Record]) -> None:
    record = make_record(config={"method": {"name": "majority", "needs_model": False}})
    assert warnings_of(record, [(t, "sports") for t, _ in GOOD]) == []


def test_collapse_without_training_names_the_words(make_record: Callable[..., Record]) -> None:
    """Also where rows were drawn that nothing was trained on (demonstrations, a calibration)."""
    (warning,) = warnings_of(make_record(parameters={}), [(t, "sports") for t, _ in GOOD])
    assert "task.label_words" in warning
    assert "trainer.steps" not in warning
    (warning,) = warnings_of(make_record(parameters={}, predictions={"count": 10, "invalid": 9}), GOOD)
    assert "use a method that trains" in warning


def test_cut_inputs_name_a_longer_length(make_record: Callable[..., Record]) -> None:
    tokenisation = {"max_length": 128, "cut": {"train": [10, 60], "test": [41, 100]}}
    assert warnings_of(make_record(), GOOD, tokenisation) == [
        "41 % of the test inputs were cut at 128 tokens: trainer.max_length=256 keeps more of them, for more time "
        "and memory"
    ]


def test_label_words_that_the_tokenizer_does_not_know_or_splits(make_record: Callable[..., Record]) -> None:
    record = make_record(config={"task": {"label_words": {"health": "afya njema"}}})
    tokens = {"sports": ["[UNK]"], "health": ["a", "f", "y", "a", "nj"], "business": ["business"]}
    unknown, split = warnings_of(record, GOOD, {"max_length": 8, "label_tokens": tokens})
    assert "`sports`" in unknown
    assert unknown.endswith("task.label_words.sports=WORD")
    assert "1 of 3 labels" in split
    assert "(`afya njema`: 5)" in split
    assert split.endswith("task.label_words.health=WORD")


def test_a_cloze_has_words_of_its_own(make_record: Callable[..., Record]) -> None:
    config = {"task": {"label_words": {"health": "afya"}}, "method": {"formulation": {"name": "cloze"}}}
    tokens = {"sports": ["sports"], "health": ["a", "##f", "##ya", "##nj", "##ema"]}
    (split,) = warnings_of(make_record(config=config), GOOD, {"max_length": 8, "label_tokens": tokens})
    assert "(`a ##f ##ya ##nj ##ema`: 5)" in split
    assert split.endswith("choose shorter ones with method.formulation.words=FILE, label `health`")
    collapse = warnings_of(make_record(config=config, parameters={}), [(t, "sports") for t, _ in GOOD])
    assert "change method.formulation.words" in collapse[0]


def test_invalid_answers_name_the_scoring_formulation(make_record: Callable[..., Record]) -> None:
    (warning,) = warnings_of(make_record(predictions={"count": 60, "invalid": 30}))
    assert warning.startswith("50 % of the answers are no label")
    assert "method/formulation=score" in warning


@pytest.mark.parametrize(
    ("dev", "rows", "warned"),
    [(95.0, {"dev": 400, "test": 1000}, True), (95.0, {"dev": 20, "test": 1000}, False), (86.0, {"dev": 4000}, False)],
    ids=["beyond chance", "chance on few rows", "test size not known"],
)
def test_dev_above_test(make_record: Callable[..., Record], dev: float, rows: dict[str, int], warned: bool) -> None:
    found = warnings_of(make_record(dev_score=dev, draw={"rows": rows}))
    assert [w.startswith("dev (95.0) is 12.1 points above test") for w in found] == [True] * warned


@pytest.mark.parametrize(
    ("gradient", "update", "word"),
    [(0.0, 0.0, "no gradient"), (1.0, 1e-6, "raise method.lr.lora (0.001)"), (1.0, 8.0, "lower method.lr.lora")],
)
def test_norms(make_record: Callable[..., Record], gradient: float, update: float, word: str) -> None:
    curves = {"gradient/lora": [gradient] * 3, "update/lora": [update] * 3, "weight/lora": [10.0] * 3}
    (warning,) = warnings_of(make_record(lr={"lora": 0.001}, curves=curves))
    assert word in warning


def test_two_steps_from_a_head_of_zeros_are_no_alarm(make_record: Callable[..., Record]) -> None:
    still = {"gradient/lora": [0.0, 0.0], "update/lora": [0.0, 0.0], "weight/lora": [10.0, 10.0]}
    assert warnings_of(make_record(curves={"norm_step": [1, 2], **still})) == []
    (warning,) = warnings_of(make_record(curves={"norm_step": [2, 4], **still}))
    assert "no gradient" in warning


def test_norms_that_are_not_finite_are_left_out(make_record: Callable[..., Record]) -> None:
    curves = {"gradient/a": [1.0, None, float("nan")], "update/a": [1.0, None, 1.0], "weight/a": [10.0, None, 0.0]}
    assert diagnose(make_record(curves=curves), GOOD, {})["norms"] == {"a": {"gradient": 1.0, "update_ratio": 0.1}}


def test_seed_outliers() -> None:
    assert seed_outliers([80.1, 80.4, 79.8, 52.0, 80.0]) == [3]
    assert seed_outliers([80.0, 80.0, 80.0, 81.0]) == []
    assert seed_outliers([80.0, 10.0, 80.0]) == []


@given(st.lists(st.integers(0, 100), max_size=12), st.integers(-50, 50))
def test_seed_outliers_are_few_and_do_not_depend_on_the_level(scores: list[int], shift: int) -> None:
    found = seed_outliers(scores)
    assert len(found) <= len(scores) / 2
    assert seed_outliers([s + shift for s in scores]) == found


def test_it_lives_in_the_record_and_older_records_have_none(make_record: Callable[..., Record]) -> None:
    record = make_record()
    record.diagnosis = diagnose(record, GOOD, {"max_length": 128, "cut": {"test": [41, 100]}})
    assert decode(encode(record), record.run_id).diagnosis == record.diagnosis
    older = record.to_dict()
    del older["diagnosis"]
    assert Record.from_dict(older).diagnosis == {}


def test_the_summary_of_a_run_shows_the_warnings(make_record: Callable[..., Record], tmp_path: Path) -> None:
    out = io.StringIO()
    record = make_record(diagnosis={"warnings": ["raise trainer.steps"]})
    print_summary(record, tmp_path, console=Console(file=out, width=200))
    assert any(line.split() == ["warning", "raise", "trainer.steps"] for line in out.getvalue().splitlines())


def test_a_text_that_was_cut_to_nothing_is_said(make_record: Callable[..., Record]) -> None:
    found = diagnose(make_record(), GOOD, {"max_length": 16, "cut": {"test": [1, 60]}, "emptied": {"test": [1, 60]}})
    assert any("lost one of their texts whole at 16 tokens" in warning for warning in found["warnings"])


def test_answers_of_another_kind_are_not_told_to_rank_labels(make_record):
    record = make_record(predictions={"invalid": 9, "count": 10}, data={"problem": "answers"})
    (warning,) = [w for w in diagnose(record, [], {})["warnings"] if w.startswith("90 %")]
    assert "not in the form asked for" in warning
    assert "score" not in warning
