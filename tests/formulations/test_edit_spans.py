"""A run on rewritten texts from data to record: written whole or as edits, learnt, read back, kept, asked again."""

from __future__ import annotations

import json

import pytest

import peftbench
from peftbench import statistics
from peftbench.errors import UsageError
from peftbench.figures.report.detail import detail
from peftbench.inspect.predict_command import columns
from peftbench.records.predictions import read_predictions, read_prompts
from peftbench.records.store import Store

TASK = ("task=jfleg", "tracking.wandb=disabled", "protocol.dev=none", "trainer.probe=false")
EDITS = "method/formulation=edit_spans"


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> str:
    """Each sentence has one wrong word in the same place; the second half of the references has other words for it."""
    home = tmp_path_factory.mktemp("data")
    for split, count in (("dev", 6), ("test", 4)):
        folder = home / f"more/edit/jfleg/{split}"
        folder.mkdir(parents=True)
        for name, word in (("src", "are"), ("ref0", "is"), ("ref1", "is"), ("ref2", "was"), ("ref3", "seems")):
            lines = "".join(f"{split} {n} word {word} right .\n" for n in range(count))
            (folder / f"{split}.{name}").write_text(lines, "utf-8")
    return f"data_dir={home}"


@pytest.fixture(scope="module")
def run(sentences, tmp_path_factory) -> peftbench.Run:
    return peftbench.run(
        *TASK, sentences, EDITS, "shots=6", "trainer.steps=24", "trainer.batch_size=6", "trainer.max_length=192",
        "method.lr.backbone=0.004", "trainer.save=all", method="full", model="tiny-llama",
        out_dir=tmp_path_factory.mktemp("out"),
    )  # fmt: skip


def test_edits_are_learnt_and_give_the_whole_text(run):
    stored = read_predictions(run.folder / "predictions.jsonl")
    assert stored[1].answer.strip() == "3 4 is"
    assert stored[1].prediction == "test 1 word is right ."
    assert (stored[1].source, len(stored[1].target)) == ("test 1 word are right .", 4)
    assert (run.score, run.record.scores["exact_match"]) == (pytest.approx(run.record.score), 100)
    facts = run.record.compute
    assert facts["output_tokens"] == facts["target_tokens"] < facts["full_target_tokens"]
    assert facts["output_length_ratio"] == pytest.approx(facts["target_tokens"] / facts["full_target_tokens"])
    assert facts["left_out_spans"] == 0


def test_statistics_and_report_read_what_is_kept(run):
    store = Store(run.record.config["out_dir"])
    cell = statistics.load_cell(store, [run.record])
    assert (cell.n_items, cell.runs[0].score) == (4, pytest.approx(run.score))
    page = detail(store, run.record)
    assert (page["items"], page["wrong"], page["confusion"]) == (4, 0, None)


def test_a_loaded_run_rewrites_new_texts_and_is_not_exported(run, tmp_path):
    texts = [f"test {n} word are right ." for n in range(4)]
    answers = peftbench.load_run(run.run_id, run.record.config["out_dir"]).predict(texts)
    assert [a.label for a in answers] == [f"test {n} word is right ." for n in range(4)]
    assert columns(answers[0], str) == {"prediction": answers[0].label, "answer": answers[0].text}
    with pytest.raises(UsageError, match=r"text task are read by a parser.*peftbench predict"):
        run.export(tmp_path / "x")


@pytest.mark.parametrize(("model", "form"), [("tiny-t5", EDITS), ("tiny-t5", "method/formulation=generate")])
def test_what_is_not_learnt_is_invalid_and_kept(sentences, tmp_path, model, form):
    run = peftbench.run(
        *TASK, sentences, form, "shots=2", "trainer.steps=1", "trainer.batch_size=2",
        "method.formulation.answer_tokens=3", method="lora", model=model, out_dir=tmp_path,
    )  # fmt: skip
    stored = read_predictions(run.folder / "predictions.jsonl")
    assert all(isinstance(item.answer, str) for item in stored)
    if form == EDITS:
        assert run.record.predictions["invalid"] == 4
        assert run.score == 0
    else:
        assert run.record.compute["target_length_ratio"] == 1


def test_places_of_words_can_be_shown_and_tuples_take_them(sentences, tmp_path):
    folder = tmp_path / "absa/uabsa/rest15"
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        line = f"{split} good food####[('food', 'positive')]\n"
        (folder / f"{split}.txt").write_text(line * 2, "utf-8")
    run = peftbench.run(
        "task=absa", "task.subtask=uabsa", "task.domain=rest15", *TASK[1:], EDITS, "method.formulation.numbered=true",
        "shots=1", "trainer.steps=1", "method.formulation.answer_tokens=3", f"data_dir={tmp_path}", method="lora",
        model="tiny-llama", out_dir=tmp_path / "out",
    )  # fmt: skip
    assert run.record.compute["target_tokens"] < run.record.compute["full_target_tokens"]
    assert json.loads((run.folder / "predictions.jsonl").read_text().splitlines()[0])["answer"] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "tiny-bert"}, r"edit_spans does not fit an encoder backbone\. These do: mask_predict"),
        ({"task": "demo_news"}, r"edit_spans does not fit a task with classification targets"),
        ({"method.formulation.answers": "paper"}, r"answers: no such key"),
    ],
)
def test_what_has_no_places_is_refused(sentences, tmp_path, changes, message):
    chosen = {"task": "jfleg", "method": "lora", "model": "tiny-llama", "shots": 2, **changes}
    with pytest.raises(UsageError, match=message):
        peftbench.run(EDITS, sentences, "tracking.wandb=disabled", "protocol.dev=none", out_dir=tmp_path, **chosen)


def test_demonstrations_show_a_reference(sentences, tmp_path):
    run = peftbench.run(
        *TASK, sentences, "shots=2", "method.formulation.by=generate", "method.formulation.answer_tokens=4",
        "method.formulation.max_length=400", method="icl", model="tiny-llama", out_dir=tmp_path,
    )  # fmt: skip
    assert "output_tokens" in run.record.compute
    prompt = next(iter(read_prompts(run.folder / "prompts.jsonl.xz").values()))
    assert prompt.count("word is right .") == 2
