"""Token classification data: what a file of words and tags may look like, and what a draw makes of sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.protocols import draw

GOOD = "Musa B-PER\nAbba I-PER\nya O\n\nKano\tB-LOC\r\n.\tO\n"


def ner(folder: Path, **texts: str) -> Path:
    for split in ("train", "dev", "test"):
        path = folder / f"more/african/masakhaner2/hau/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(texts.get(split, GOOD).encode())
    return folder


def test_words_and_tags_become_sentences(settled_task, tmp_path):
    data = load_task(settled_task("masakhaner"), ner(tmp_path))
    assert data.problem == "tags"
    assert [(row.id, row.text, row.target) for row in data.test] == [
        ("test:0", "Musa Abba ya", ("B-PER", "I-PER", "O")),
        ("test:1", "Kano .", ("B-LOC", "O")),
    ]
    assert (data.main_metric, data.labels) == ("f1_entities", ("PER", "ORG", "LOC", "DATE"))


def test_a_part_of_train_is_read_under_its_own_name(settled_task, tmp_path):
    ner(tmp_path)
    train = tmp_path / "more/african/masakhaner2/hau/train.txt"
    train.rename(train.with_name("train_part.txt"))
    assert len(load_task(settled_task("masakhaner"), tmp_path).train) == 2


def test_an_i_without_a_b_stays_and_is_said(settled_task, tmp_path):
    data = load_task(settled_task("masakhaner"), ner(tmp_path, test="Kano I-LOC\nya O\n\nMusa B-PER\n"))
    assert data.test[0].target == ("I-LOC", "O")
    assert any(note.startswith("test: entities that begin with I-: 1;") for note in data.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Musa B-PER\nAbba\n", r"test\.txt, line 2: a word and its tag are expected.*found 1 fields: Abba"),
        ("Musa B-PERS\n", r"line 1: the label `PERS` is not in the label set of `hau`\. Did you mean `PER`"),
        ("Musa S-PER\n", r"line 1: the tag `S-PER` is no IOB2 tag: O, B-TYPE or I-TYPE"),
    ],
)
def test_a_damaged_file_is_told_with_its_line(settled_task, tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        load_task(settled_task("masakhaner"), ner(tmp_path, test=text))


def test_k_shots_are_k_sentences_and_their_entities_are_counted(settled_task, default_protocol, tmp_path):
    made = {s: "\n\n".join(f"Musa{s}{i} B-PER\nda O\nKano B-LOC" for i in range(9)) for s in ("train", "dev")}
    data = load_task(settled_task("masakhaner"), ner(tmp_path, **made))
    drawn = draw(data, default_protocol, 4)
    facts = drawn.to_dict()
    assert (len(drawn.train), facts["unit"], facts["counts"]["train"]) == (4, "total", {"LOC": 4, "PER": 4})
    assert "train: none of the 4 drawn rows holds ORG, DATE" in facts["notes"]
    assert [row.id for row in draw(data, default_protocol, 2).train] == [row.id for row in drawn.train][:2]


def test_a_protocol_that_draws_by_class_is_refused(settled_task, protocol, tmp_path):
    data = load_task(settled_task("masakhaner"), ner(tmp_path))
    with pytest.raises(UsageError, match=r"protocol=lm_bff: draws rows by class, and the rows of a tags task have no"):
        draw(data, protocol("lm_bff"), 1)
