"""What one command keeps for the next gives the same answer, and is not used once anything it rests on has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench import cache as memory
from peftbench.cache import stamp, tree_stamp
from peftbench.config import many
from peftbench.config.load import compose
from peftbench.inputs import InputCache
from peftbench.inspect import remembered
from peftbench.inspect.remembered import RememberedInputs
from peftbench.sweeps.jobs import compose_jobs

LABELS = ("business", "health", "politics", "sports")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A few rows in MasakhaNEWS's format."""
    folder = tmp_path / "data" / "masakhanews" / "amh"
    folder.mkdir(parents=True)
    for split, count in (("train", 12), ("dev", 6), ("test", 6)):
        rows = [f"{label}\thead {split} {i}\ttext {split} {i} {label}\t\n" for label in LABELS for i in range(count)]
        (folder / f"{split}.tsv").write_text("category\theadline\ttext\turl\n" + "".join(rows), encoding="utf-8")
    return tmp_path / "data"


def test_stamps_change_with_the_files(tmp_path: Path) -> None:
    file = tmp_path / "tree" / "a.yaml"
    file.parent.mkdir()
    file.write_text("a")
    before, tree = stamp([file]), tree_stamp(file.parent)
    assert stamp([file]) == before
    file.write_text("b c")
    assert stamp([file]) != before
    assert tree_stamp(file.parent) != tree
    (file.parent / "new").write_text("")
    assert stamp([file.parent / "gone"]) is None


def test_a_remembered_composition_is_the_same_config(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [["method=lora", "seed=3"], ["method=peft", "method.type=VERA"], ["task=masakhanews", "task.lang=hau"]]
    first = [many.Composer().compose(job) for job in jobs]
    monkeypatch.setattr(many, "compose_raw", lambda choices: pytest.fail(f"composed anew: {choices}"))
    again = [many.Composer().compose(job) for job in jobs]
    assert again == first
    monkeypatch.undo()
    assert again == [compose(job) for job in jobs]


def test_a_section_that_is_added_brings_nothing_of_an_earlier_command() -> None:
    composer = many.Composer()
    composer.compose(["task=file", "task.path=rows.csv", "trainer=debug"])
    added = ["+recipe.name=augmentation", "method=lora"]
    assert composer.compose(added) == compose(added)


def test_an_edited_config_file_is_composed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path / "conf"))
    steps = []
    for number in (7, 123):
        file.write_text(f"# @package _global_\ntrainer:\n  steps: {number}\n")
        steps.append(many.Composer().compose(["+experiment=mine"]).trainer.steps)
    assert steps == [7, 123]


def names(data_dir: Path, inputs: InputCache) -> list[str | None]:
    overrides = ["task=masakhanews", "task.lang=amh", f"data_dir={data_dir}", "method=lora"]
    jobs = compose_jobs([[*overrides, f"shots={k}", f"data_seed={s}"] for k in (2, 3) for s in (1, 2)], inputs)
    assert not [job.error for job in jobs if job.error]
    return [job.run_id for job in jobs]


def test_names_from_remembered_draws(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same names without the data; different data, different names."""
    true = names(data_dir, InputCache())
    assert names(data_dir, RememberedInputs()) == true
    with monkeypatch.context() as patch:
        patch.setattr("peftbench.inputs.load_task", lambda *_: pytest.fail("the data were loaded again"))
        assert names(data_dir, RememberedInputs()) == true
    test = data_dir / "masakhanews" / "amh" / "test.tsv"
    test.write_text(test.read_text(encoding="utf-8").replace("text test 0", "text test zero"), encoding="utf-8")
    changed = names(data_dir, RememberedInputs())
    assert changed == names(data_dir, InputCache())
    assert not {*changed} & {*true}


def test_edited_code_is_not_trusted(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names(data_dir, RememberedInputs())
    monkeypatch.setattr(remembered, "code_stamp", lambda *_: "edited")
    loaded: list[str] = []
    real = memory.stamp
    monkeypatch.setattr(remembered, "stamp", lambda paths: loaded.append("x") or real(paths))
    names(data_dir, RememberedInputs())
    assert len(loaded) == 4  # each draw was made and kept anew


def test_mistakes_are_not_remembered(data_dir: Path) -> None:
    job = ["task=masakhanews", "task.lang=amh", f"data_dir={data_dir}", "shots=500"]
    for _ in range(2):
        (found,) = compose_jobs([job], RememberedInputs())
        assert "too few rows" in found.error
