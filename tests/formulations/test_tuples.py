"""Tuples through a run: written as text, learnt, read back, scored, asked again; demonstrations in the same form."""

from __future__ import annotations

import pytest

import peftbench
from peftbench.errors import UsageError
from peftbench.records.predictions import read_predictions

LINES = ["good food####[([1], [0], 'POS')]", "slow bad service####[([2], [0], 'NEG'), ([2], [1], 'NEG')]"]


@pytest.fixture
def reviews(tmp_path):
    """ASTE's files with two sentences that differ, several times over with words of their own."""
    folder = tmp_path / "data" / "absa" / "aste" / "rest15"
    folder.mkdir(parents=True)
    for split, count in {"train": 6, "dev": 2, "test": 4}.items():
        lines = [f"{split} {n} {LINES[n % 2]}" for n in range(count)]
        shifted = [_shift(line) for line in lines]
        (folder / f"{split}_triplets.txt").write_text("\n".join(shifted) + "\n", "utf-8")
    return f"data_dir={tmp_path / 'data'}"


def _shift(line: str) -> str:
    """Two words more stand in front of the sentence."""
    text, _, tuples = line.rpartition("####")
    for position in (2, 1, 0):
        tuples = tuples.replace(f"[{position}]", f"[{position + 2}]")
    return f"{text}####{tuples}"


TASK = ("task=absa", "task.subtask=aste", "task.domain=rest15", "tracking.wandb=disabled", "protocol.dev=none")


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-t5"])
def test_a_run_on_tuples_learns_its_rows_and_answers_as_stored(reviews, tmp_path, model):
    run = peftbench.run(
        *TASK, reviews, "shots=4", "trainer.steps=60", "trainer.batch_size=4", "trainer.max_length=192",
        "method.lr.backbone=0.003", "trainer.save=all", method="full", model=model, out_dir=tmp_path / "out",
    )  # fmt: skip
    record = run.record
    assert {"f1_tuples", "precision_tuples", "recall_tuples"} <= record.scores.keys()
    stored = read_predictions(run.folder / "predictions.jsonl")
    if model == "tiny-llama":
        assert record.scores["f1_tuples"] > 50, "two sentences, seen over and over"
    assert all(isinstance(item.answer, str) for item in stored)
    asked = run.predict([f"test {n} {LINES[n % 2].rpartition('####')[0]}" for n in range(4)])
    assert [a.text for a in asked] == [item.answer for item in stored]


def test_demonstrations_show_tuples_and_the_task_says_what_it_asks_for(reviews, tmp_path):
    run = peftbench.run(
        *TASK, reviews, "shots=2", "method.formulation.by=generate", "method.formulation.answer_tokens=4",
        "method.formulation.max_length=600", method="icl", model="tiny-llama", out_dir=tmp_path / "out",
    )  # fmt: skip
    assert run.record.predictions["invalid"] == 4, "an untrained network writes no list"
    assert run.score == 0


def test_encoders_and_label_numbers_are_refused(reviews, tmp_path):
    with pytest.raises(UsageError, match=r"tuples targets.*family causal or seq2seq: edit_spans, generate"):
        peftbench.run(*TASK, reviews, "shots=2", method="lora", model="tiny-bert", out_dir=tmp_path)
    with pytest.raises(UsageError, match=r"answers=digits.*words, paper"):
        peftbench.run(
            *TASK,
            reviews,
            "shots=2",
            "method.formulation.answers=digits",
            method="lora",
            model="tiny-llama",
            out_dir=tmp_path,
        )
