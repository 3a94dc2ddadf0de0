"""Training in one language, testing in another: which rows, which labels, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.config import compose
from peftbench.config.components import components
from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.protocols import draw

NEWS = {"hau": ("health", "religion", "sports"), "amh": ("health", "business", "sports"), "xho": ("health", "sports")}


def news(folder: Path) -> Path:
    for lang, labels in NEWS.items():
        for split, times in (("train", 4), ("dev", 2), ("test", 3)):
            rows = [f"{label}\t{lang} {split} {label} {i}\ttext\t" for label in labels for i in range(times)]
            path = folder / f"masakhanews/{lang}/{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(["category\theadline\ttext\turl", *rows]) + "\n")
    return folder


@pytest.fixture
def transfer(settled_task, tmp_path):
    return load_task(settled_task("masakhanews", "task.source_lang=hau", "task.lang=amh"), news(tmp_path))


def test_train_and_dev_are_of_the_source_and_test_of_the_target(transfer, default_protocol):
    drawn = draw(transfer, default_protocol, 0)
    assert {row.text.split()[0] for row in (*drawn.train, *drawn.dev)} == {"hau"}
    assert {row.text.split()[0] for row in drawn.test} == {"amh"}
    assert (len(drawn.train), len(drawn.dev), len(drawn.test)) == (12, 6, 9)
    assert (drawn.shots, drawn.to_dict()["unit"], drawn.select) == (0, "all", "best")
    assert (transfer.subset, transfer.source_subset, transfer.languages) == ("hau-to-amh", "hau", ("hau", "amh"))


def test_labels_meet_by_name_and_what_does_not_is_counted(transfer):
    inventory = ("business", "entertainment", "health", "politics", "religion", "sports", "technology")
    assert transfer.labels == inventory
    assert any(note.startswith("only hau has the labels") and "religion (4)" in note for note in transfer.notes)
    assert all(row.target in transfer.labels for row in (*transfer.train, *transfer.test))


def test_a_label_that_only_the_target_has_is_said_to_be_never_trained(settled_task, tmp_path):
    data = load_task(settled_task("masakhanews", "task.source_lang=xho", "task.lang=hau"), news(tmp_path))
    (note,) = [note for note in data.notes if note.startswith("only hau")]
    assert "religion (3)" in note
    assert note.endswith("(test); they are never trained")


def test_files_of_both_languages_are_in_the_source(transfer):
    assert {name.partition(":")[0] for name in transfer.source.files} == {"hau", "amh"}


def test_the_source_may_be_the_language_that_is_tested(settled_task, default_protocol, tmp_path):
    data = load_task(settled_task("masakhanews", "task.source_lang=hau", "task.lang=hau"), news(tmp_path))
    supervised = load_task(settled_task("masakhanews", "task.lang=hau"), tmp_path)
    assert [row.id for row in draw(data, default_protocol, 0).train] == [
        row.id for row in draw(supervised, default_protocol, "full").train
    ]
    assert data.notes[0] == "trained in hau itself: no transfer"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.source_lang=[swa]"], r"task\.source_lang=\['swa'\]: task `masakhanews` has no such language"),
        (["task.source_lang=huu"], r"task\.source_lang=huu: task `masakhanews` has no such language.*`hau`"),
    ],
)
def test_a_source_that_cannot_be_one_is_told_when_the_config_is_composed(settled_task, overrides, message):
    with pytest.raises(UsageError, match=message):
        settled_task("masakhanews", *overrides)


def test_shots_of_the_target_and_a_test_set_made_of_dev_are_refused(transfer, default_protocol, protocol):
    with pytest.raises(UsageError, match=r"shots=5: with task\.source_lang, .* Use shots=0"):
        draw(transfer, default_protocol, 5)
    with pytest.raises(UsageError, match=r"protocol=dept_total: makes the test set out of dev"):
        draw(transfer, protocol("dept_total"), 0)


def test_a_task_without_languages_has_no_such_key():
    with pytest.raises(UsageError, match=r"task\.source_lang"):
        compose(["method=lora", "task=glue", "task.source_lang=eng"])


def test_a_transfer_is_trained_although_shots_is_0_and_is_named_by_both_languages():
    words = ["method=lora", "model=tiny-t5", "task=masakhanews", "task.lang=hau", "shots=0"]
    plain, moved = compose(words), compose([*words, "task.source_lang=swa"])
    assert (plain.labelled, moved.labelled) == (0, "full")
    assert (plain.task.place, moved.task.place) == ("hau", "swa-to-hau")
    posed = [next(p.name for p in components(cfg) if p.kind == "formulation") for cfg in (plain, moved)]
    assert posed == ["score", "generate"]
