"""Rankings through a run: lists and sampled single answers, learnt, read, pooled, scored, asked again."""

from __future__ import annotations

import json

import pytest

import peftbench
from peftbench.errors import UsageError
from peftbench.records.predictions import read_predictions

QUESTIONS = {"one fruit is": ["apple", "pear"], "one pet is": ["dog", "cat"], "one tool is": ["saw", "axe"]}


@pytest.fixture
def questions(tmp_path):
    """ProtoQA's files, in which test asks what train has told."""
    home = tmp_path / "data/more/commonsense/protoqa"
    home.mkdir(parents=True)
    lines = [f"{question}\t{answer}." for question, answers in QUESTIONS.items() for answer in answers]
    (home / "finetune_train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tests = []
    for question, (first, second) in QUESTIONS.items():
        asked = question.replace("one", "Name a").removesuffix(" is") + "."
        clusters = {"0": {"count": 8, "answers": [first]}, "1": {"count": 2, "answers": [second, "x"]}}
        tests.append({"question": {"original": asked, "normalized": asked.lower()}, "answers": {"clusters": clusters}})
    (home / "dev.crowdsourced.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tests), encoding="utf-8")
    return f"data_dir={tmp_path / 'data'}"


TASK = ("task=protoqa", "tracking.wandb=disabled", "protocol.dev=none", "protocol.drop_overlap=false")


def test_a_run_learns_lists_and_answers_as_stored(questions, tmp_path):
    run = peftbench.run(
        *TASK, questions, "shots=3", "trainer.steps=30", "trainer.batch_size=3", "trainer.max_length=192",
        "method.lr.backbone=0.003", "trainer.save=all", method="full", model="tiny-llama", out_dir=tmp_path / "out",
    )  # fmt: skip
    stored = read_predictions(run.folder / "predictions.jsonl")
    assert [item.target[0] for item in stored] == [[8, [answers[0]]] for answers in QUESTIONS.values()]
    assert run.record.scores["max_answer_1"] > 50, "three questions, seen over and over"
    asked = run.predict(list(QUESTIONS))
    assert [list(a.label or ()) for a in asked] == [item.prediction or [] for item in stored]
    assert run.record.metric == "max_answer_1"


def test_single_answers_are_sampled_and_ranked(questions, tmp_path):
    run = peftbench.run(
        *TASK, questions, "task.subset=answers", "shots=0", "method.formulation.answers=paper",
        "method.formulation.sample=true", "method.formulation.samples=3", "method.formulation.answer_tokens=2",
        method="zero_shot", model="tiny-llama", out_dir=tmp_path / "out",
    )  # fmt: skip
    stored = read_predictions(run.folder / "predictions.jsonl")
    assert [len(json.loads(item.answer)) for item in stored] == [3, 3, 3]
    assert len(set(json.loads(stored[0].answer))) > 1, "each sample has draws of its own"
    assert all(item.prediction is None or len(item.prediction) <= 3 for item in stored)
    assert "3 sampled answers a row made one" in run.record.notes


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["method.formulation.samples=3"], "samples=3: the likeliest answer is the same each time"),
        (["method.formulation.answers=digits"], r"answers=digits.*words, paper"),
        (["task.subset=answer"], "no such subset. Did you mean `answers`"),
        (["task.metrics=[max_answer_2]"], "Did you mean `max_answer_"),
    ],
)
def test_mistakes_are_refused(questions, tmp_path, keys, told):
    with pytest.raises(UsageError, match=told):
        peftbench.run(*TASK, questions, *keys, "shots=0", method="zero_shot", model="tiny-llama", out_dir=tmp_path)


def test_an_encoder_is_refused(questions, tmp_path):
    with pytest.raises(UsageError, match=r"answers targets.*family causal or seq2seq: generate"):
        peftbench.run(*TASK, questions, "shots=2", method="lora", model="tiny-bert", out_dir=tmp_path)
