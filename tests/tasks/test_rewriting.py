"""JFLEG and ASSET from files with their traps."""

from __future__ import annotations

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.protocols import draw


@pytest.fixture
def folder(tmp_path):
    """Lines of dev end in a space, files of test have no final newline."""
    home = tmp_path / "more/edit/jfleg"
    for split, count in (("dev", 12), ("test", 5)):
        (home / split).mkdir(parents=True)
        for name in ("src", "ref0", "ref1", "ref2", "ref3"):
            lines = [f"{split} {n}  are {name}\u0085 ." + " " * (split == "dev") for n in range(count)]
            (home / split / f"{split}.{name}").write_text("\n".join(lines) + "\n" * (split == "dev"), "utf-8")
    return tmp_path


def test_a_row_has_all_references_of_its_sentence(task_config, folder):
    data = load_task(task_config("jfleg"), folder)
    assert (data.problem, data.main_metric, len(data.train), len(data.test)) == ("text", "gleu", 12, 5)
    assert data.train[3].text == "dev 3  are src\u0085 ."
    assert data.test[1].target == tuple(f"test 1  are ref{n}\u0085 ." for n in range(4))
    assert len(data.source.files) == 10
    assert any("12 of the official 754" in note for note in data.notes)


def test_k_shots_are_k_sentences_and_more_references_are_rows_of_their_own(task_config, folder, default_protocol):
    data = load_task(task_config("jfleg"), folder)
    drawn = draw(data, default_protocol, 4, 1)
    assert (drawn.unit, len(drawn.train), len(drawn.dev)) == ("total", 4, 5)
    data = load_task(task_config("jfleg", "task.train_references=2"), folder)
    assert [row.id for row in data.train[:3]] == ["train:0.0", "train:0.1", "train:1.0"]
    assert data.train[1].target[0] == "dev 0  are ref1\u0085 ."
    assert len({*data.train[1].target}) == 4, "all of them count as right"
    drawn = draw(data, default_protocol, 4, 1)
    assert not {row.group for row in drawn.train} & {row.group for row in drawn.dev}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda home: (home / "test/test.ref2").write_text("a\nb\n"), r"test\.ref2: 2 lines for the 5 of .*test\.src"),
        (lambda home: (home / "dev/dev.ref1").write_text("one\n \nthree\n"), r"dev\.ref1, line 2: empty"),
        (lambda home: (home / "dev/dev.ref3").unlink(), r"only a part of the data\. Missing: .*dev\.ref3"),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(task_config, folder, damage, message):
    damage(folder / "more/edit/jfleg")
    with pytest.raises(UsageError, match=message):
        load_task(task_config("jfleg"), folder)


def test_more_references_than_there_are_are_refused(task_config, folder):
    with pytest.raises(UsageError, match=r"train_references=5: a sentence has 4 references"):
        load_task(task_config("jfleg", "task.train_references=5"), folder)


@pytest.mark.data
def test_the_real_files_have_their_official_sizes(task_config, real_data):
    for name, counts in (("jfleg", (754, 747, 4)), ("asset", (2000, 359, 10))):
        data = load_task(task_config(name), real_data)
        assert (len(data.train), len(data.test), len(data.test[0].target)) == counts
        assert data.notes == ()
