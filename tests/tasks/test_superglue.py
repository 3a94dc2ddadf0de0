"""SuperGLUE's formats on a few rows written here, and its counts on the real files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.superglue import FORMS

FOLDERS = {"boolq": "BoolQ", "copa": "COPA", "multirc": "MultiRC", "wic": "WiC"}
WSC_ROW = {
    "text": "The cat saw the Dog, so it ran and it hid.",
    "target": {"span1_text": "the dog", "span1_index": 3, "span2_text": "it", "span2_index": 9},
    "label": True,
}


@pytest.fixture
def load(task_config, tmp_path):
    """Write the same rows as train, dev32 and val of a subset, then read them."""

    def make(subset: str, rows: list[dict[str, Any]], unlabeled: list[dict[str, Any]] | None = None):
        folder: Path = tmp_path / "superglue" / FOLDERS.get(subset, subset.upper())
        folder.mkdir(parents=True)
        for name in ("train", "dev32", "val"):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        if unlabeled:
            (folder / "unlabeled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unlabeled), "utf-8")
        return load_task(task_config("superglue", f"task.subset={subset}"), tmp_path)

    return make


def test_booleans_become_label_names(load):
    rows = [{"question": "is it", "passage": "It is.", "label": value} for value in (True, False)]
    data = load("boolq", rows)
    assert [(r.text, r.pair, r.target) for r in data.train] == [
        ("is it", "It is.", "true"),
        ("is it", "It is.", "false"),
    ]
    assert [r.id for r in data.test] == ["test:0", "test:1"]
    assert data.labels == ("false", "true")
    assert data.label_words == {"false": "no", "true": "yes"}
    assert any(note.startswith("train: 2 of the official 9427 rows") for note in data.notes)


@pytest.mark.parametrize("subset", ["cb", "rte"])
def test_string_labels_and_premise_hypothesis_columns(load, subset):
    data = load(subset, [{"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"}])
    assert (data.dev[0].text, data.dev[0].pair, data.dev[0].target) == ("It rains.", "It is wet.", "entailment")
    assert data.metrics == (("accuracy", "f1_macro") if subset == "cb" else ("accuracy",))


def test_copa_is_a_choice_between_two(load):
    row = {
        "premise": "The glass fell.",
        "question": "effect",
        "choice1": "It broke.",
        "choice2": "It sang.",
        "label": 0,
    }
    cause = row | {"question": "cause", "label": 1}
    data = load("copa", [row, cause], unlabeled=[{key: row[key] for key in row if key != "label"}])
    first, second = data.test
    assert first.text == "The glass fell. What was the effect?"
    assert first.pair == "choice1: It broke. choice2: It sang."
    assert (first.target, second.target) == ("choice1", "choice2")
    assert second.text.endswith("What was the cause?")
    assert [(r.id, r.target) for r in data.unlabeled] == [("unlabeled:0", None)]


def test_multirc_unfolds_to_a_row_an_answer_with_the_question_as_group(load):
    def question(text: str, *labels: int) -> dict:
        return {"question": text, "answers": [{"text": f"{text} {i}", "label": n} for i, n in enumerate(labels)]}

    passages = [
        {"idx": 0, "passage": {"text": "P0", "questions": [question("Who?", 1, 0), question("Why?", 0)]}},
        {"idx": 1, "passage": {"text": "P1", "questions": [question("Who?", 1)]}},
    ]
    rows = load("multirc", passages).test
    assert [(r.text, r.pair, r.target) for r in rows] == [
        ("P0", "Who? Who? 0", "true"),
        ("P0", "Who? Who? 1", "false"),
        ("P0", "Why? Why? 0", "false"),
        ("P1", "Who? Who? 0", "true"),
    ]
    assert [r.group for r in rows] == ["test:0/0", "test:0/0", "test:0/1", "test:1/0"]
    assert len({r.id for r in rows}) == 4


def test_wic_gives_the_word_and_both_sentences(load):
    row = {"word": "wash", "sentence1": "We need to wash it.", "sentence2": "He washed the dirt.", "label": True}
    assert load("wic", [row]).test[0].text == "wash: We need to wash it."


def test_wsc_marks_the_occurrence_at_the_word_index_and_leaves_punctuation_outside(load):
    data = load("wsc", [WSC_ROW])
    assert data.test[0].text == "The cat saw *the Dog*, so it ran and #it# hid."
    assert data.test[0].pair is None
    assert "train: no row with the label false" in data.notes  # FewGLUE's train holds only positive rows


def test_wsc_takes_the_nearest_occurrence_where_the_index_is_off():
    row = WSC_ROW | {"target": WSC_ROW["target"] | {"span2_index": 8}}
    assert FORMS["wsc"](row)[0] == "The cat saw *the Dog*, so it ran and #it# hid."


@given(
    words=st.lists(st.sampled_from(["the", "cat", "it", "ran,", '"it', "kit."]), min_size=2, max_size=12),
    data=st.data(),
)
def test_wsc_marking_only_adds_marks_at_the_right_words(words, data):
    one, two = sorted(data.draw(st.sets(st.integers(0, len(words) - 1), min_size=2, max_size=2)))
    spans = {f"span{k}_text": words[i].strip('",.') for k, i in ((1, one), (2, two))}
    marked, _ = FORMS["wsc"]({"text": " ".join(words), "target": {**spans, "span1_index": one, "span2_index": two}})
    assert marked.replace("*", "").replace("#", "") == " ".join(words)
    assert [i for i, word in enumerate(marked.split()) if "*" in word] == [one]
    assert [i for i, word in enumerate(marked.split()) if "#" in word] == [two]


@pytest.mark.parametrize(
    ("subset", "row", "message"),
    [
        ("boolq", {"question": "is it", "label": True}, r"key 'passage' is missing"),
        (
            "boolq",
            {"question": "is it", "passage": "p", "label": "maybe"},
            r"the label `maybe` is not in the label set",
        ),
        ("boolq", {"question": "is it", "passage": "p"}, r"key 'label' is missing"),
        ("copa", {"premise": "p", "question": "why", "choice1": "a", "choice2": "b", "label": 0}, r"question is `why`"),
        ("wsc", WSC_ROW | {"text": "Nothing of it."}, r"`the dog` is not at word 3"),
        ("multirc", {"passage": {"text": "p", "questions": [{"question": "q"}]}}, r"key 'answers' is missing"),
        ("multirc", {"passage": "p"}, r"not a row of `multirc`"),
    ],
)
def test_damaged_rows_name_file_and_line(load, subset, row, message):
    with pytest.raises(UsageError, match=rf"train\.jsonl, line 1: .*{message}"):
        load(subset, [row])


def test_hub_has_flat_multirc_rows_and_no_dev(monkeypatch, tmp_path, task_config):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "snapshot" / "multirc"
    folder.mkdir(parents=True)
    rows = [
        {
            "paragraph": "P",
            "question": "Who?",
            "answer": a,
            "idx": {"paragraph": 7, "question": 3, "answer": i},
            "label": i,
        }
        for i, a in enumerate(["She", "He"])
    ]
    for split in ("train", "validation"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(tmp_path / "snapshot"))
    data = load_task(task_config("superglue", "task.subset=multirc"), None)
    assert [(r.pair, r.target, r.group) for r in data.test] == [
        ("Who? She", "false", "test:7/3"),
        ("Who? He", "true", "test:7/3"),
    ]
    assert len(data.dev) == 0


@pytest.mark.parametrize("subset", ["boolq", "cb", "copa", "multirc", "wic", "wsc"])  # `rte` is GLUE's
def test_alias_is_the_subset_with_a_description_of_its_own(task_config, subset):
    alias = task_config(subset)
    assert alias == replace(task_config("superglue"), subset=subset, description=alias.description)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("subset", "train", "dev", "test", "unlabeled"),
    [
        ("boolq", 32, 32, 3270, 0),
        ("cb", 32, 32, 56, 0),
        ("copa", 32, 32, 100, 400),
        ("multirc", 154, 167, 4848, 27243),
        ("rte", 32, 32, 277, 0),
        ("wic", 32, 32, 638, 5428),
        ("wsc", 32, 32, 104, 554),
    ],
)
def test_real_counts(task_config, real_data, subset, train, dev, test, unlabeled):
    data = load_task(task_config("superglue", f"task.subset={subset}"), real_data)
    assert (len(data.train), len(data.dev), len(data.test), len(data.unlabeled)) == (train, dev, test, unlabeled)
    assert {row.target for row in data.test} == set(data.labels)
    if subset == "multirc":
        assert len({row.text for row in data.test}) == 83
        assert len({row.group for row in data.test}) == 953
    if subset == "wsc":
        assert {row.target for row in data.train} == {"true"}
