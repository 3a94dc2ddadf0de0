"""MAD-X as a run: language adapters from unlabelled text, kept by content, and the language changed for the test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cut_off_runs import Killed, killed_at
from made_up_configs import compose
from safetensors.torch import load_file

from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.runner import run

FAST = ["model=tiny-bert", "task=masakhanews", "task.source_lang=hau", "shots=0", "trainer=debug",
        "trainer.probe=false", "trainer.device=cpu", "trainer.precision=fp32", "trainer.max_length=24",
        "trainer.eval_every=2", "tracking.wandb=disabled", "method.lr.task=1e-2"]  # fmt: skip
SHORT = ["method.language_adapters.steps=2", "method.language_adapters.batch_size=4",
         "method.language_adapters.max_length=16"]  # fmt: skip
LABELS = ("health", "politics", "sports")
SHARED = "a sentence of train that stands in a test text as well, word by word"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """News in three languages, 12 rows a split; a train text of `xho` has a sentence of its test."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    for lang in ("hau", "xho", "yor"):
        for split in ("train", "dev", "test"):
            rows = [
                f"{label}\t{label} {i}\t{' '.join(f'{lang}{split}{i}{word}' for word in (label, 'one', 'two'))}.\t"
                for label in LABELS
                for i in range(4)
            ]
            if lang == "xho" and split != "dev":
                rows.append(f"sports\t{split} more.\t{SHARED}.\t")
            path = tmp_path / f"data/masakhanews/{lang}/{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(["category\theadline\ttext\turl", *rows]) + "\n")
    return tmp_path / "data"


def config(data: Path, *args: str, method: str = "madx"):
    short = SHORT if method == "madx" else []
    words = [*FAST, f"method={method}", *short, f"data_dir={data}", f"out_dir={data.parent / 'results'}", *args]
    return compose(words)


def finish(data: Path, *args: str) -> Record:
    record, _ = run(config(data, *args))
    assert record is not None
    assert record.status == "done", record.reason
    return record


def parts(record: Record) -> dict[str, dict]:
    return {part["name"]: part for part in record.stages[0]["parts"]}


def adapter(data: Path, record: Record) -> Path:
    return Store(data.parent / "results").folder(record.run_id) / "adapter"


def test_a_language_is_trained_once_for_all_seeds_and_targets(data: Path) -> None:
    first = finish(data, "task.lang=xho")
    made = parts(first)
    assert list(made) == ["hau", "xho"]
    assert [part["facts"]["read_from"] for part in made.values()] == ["training", "training"]
    assert [part["steps"] for part in made.values()] == [2, 2]
    assert all(part["facts"]["held_out_loss"] != part["facts"]["held_out_loss_bare"] for part in made.values())
    assert first.stages[0]["steps"] == 4
    assert [stage["name"] for stage in first.stages] == ["language_adapters", "task_adapter"]
    assert first.dev_score is not None
    assert sum("language adapter" in note for note in first.notes) == 2

    other_seed, other_target = finish(data, "task.lang=xho", "seed=2"), finish(data, "task.lang=yor")
    assert [part["facts"]["read_from"] for part in parts(other_seed).values()] == ["cache", "cache"]
    assert other_seed.stages[0]["steps"] == 0
    assert {name: part["facts"]["sha256"] for name, part in parts(other_seed).items()} == {
        name: part["facts"]["sha256"] for name, part in made.items()
    }
    assert [part["facts"]["read_from"] for part in parts(other_target).values()] == ["cache", "training"]
    assert parts(other_target)["hau"]["facts"]["cpu_seconds"] > 0  # what it took when it was made

    # what stands in the run's folder: both languages as the cache has them, frozen to the bit, and the target spoken
    kept = load_file(adapter(data, first) / "madx.safetensors")
    assert json.loads((adapter(data, first) / "madx.json").read_text()) == {
        "languages": ["xho", "hau"],
        "spoken": "xho",
    }
    for folder in (data.parent / "cache/models").glob("language-adapter-*"):
        tensors = load_file(folder / "adapter.safetensors")
        names = [
            lang for lang in ("hau", "xho") if torch.equal(tensors["0.up.weight"], kept[f"language/{lang}/0.up.weight"])
        ]
        if names:
            assert all(torch.equal(tensor, kept[f"language/{names[0]}/{name}"]) for name, tensor in tensors.items())

    # from the cache or trained: the same run
    for folder in (data.parent / "cache/models").glob("language-adapter-*"):
        (folder / "adapter.safetensors").unlink()
        (folder / "facts.json").unlink()
        folder.rmdir()
    again = finish(data, "task.lang=xho", "rerun=true")
    assert again.predictions["sha256"] == first.predictions["sha256"]
    assert parts(again)["hau"]["facts"]["read_from"] == "training"


def test_sentences_of_evaluation_are_dropped_and_counted(data: Path) -> None:
    facts = {name: part["facts"] for name, part in parts(finish(data, "task.lang=xho")).items()}
    assert facts["hau"]["dropped"] == 0
    assert facts["xho"]["dropped"] == 1


def test_text_of_a_folder_is_named_by_content_not_by_place(data: Path, tmp_path: Path) -> None:
    only = ["task.lang=yor", "method.language_adapters.task_texts=false"]

    def name(folder: str, text: str) -> str:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        for lang in ("hau", "yor"):
            (place / f"{lang}.txt").write_text(f"{lang} {text}\n" * 3)
        return InputCache().run_id(config(data, *only, f"method.language_adapters.texts={place}"))

    assert name("one", "says this.") == name("two", "says this.")
    assert name("one", "says this.") != name("one", "says that.")
    relative = InputCache().run_id(config(data, *only, "method.language_adapters.texts=../one"))
    assert relative == InputCache().run_id(config(data, *only, f"method.language_adapters.texts={tmp_path / 'one'}"))


def test_the_target_s_train_texts_are_part_of_the_name_of_madx_alone(data: Path) -> None:
    def names() -> tuple[str, str]:
        found = (config(data, "task.lang=yor", method=method) for method in ("madx", "madx_task"))
        one, other = (InputCache().run_id(cfg) for cfg in found)
        return one, other

    before = names()
    path = data / "masakhanews/yor/train.tsv"
    path.write_text(path.read_text().replace("one", "uno"))
    after = names()
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["method.language_adapters.task_texts=false"], "no unlabelled text in `hau`"),
        (["method.language_adapters.texts=nowhere"], r"texts=nowhere: no such folder"),
        (["model=tiny-t5"], "does not fit a seq2seq backbone"),
        (["method/tuner=lora"], "fills method/tuner=madx, no other"),
        (["method.stages=[language_adapters,supervised]"], "stands task_adapter"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(data: Path, args: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(config(data, "task.lang=yor", *args))
    assert not list((data.parent / "results").rglob("*.json"))


@pytest.mark.slow
def test_trained_and_tested_in_one_language_it_is_a_supervised_run(data: Path) -> None:
    """The same predictions whether `hau` is its own source, or there is none, on the same rows."""
    transfer = finish(data, "task.lang=hau")
    assert list(parts(transfer)) == ["hau"]
    plain = finish(data, "task.lang=hau", "task.source_lang=null", "shots=full")
    assert plain.predictions["sha256"] == transfer.predictions["sha256"]


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_language_that_it_was_in(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("task.lang=yor", "trainer.checkpoint_every=1", "method.language_adapters.steps=3")
    with killed_at(monkeypatch, "1-language_adapters/yor", 2), pytest.raises(Killed):
        finish(data, *args)
    cut = finish(data, *args)
    assert [part["facts"]["read_from"] for part in parts(cut).values()] == ["cache", "training"]
    assert not list((data.parent / "cache/models").glob("*.partial"))
    monkeypatch.setenv("PEFTBENCH_CACHE", str(data.parent / "other"))
    whole = finish(data, *args, f"out_dir={data.parent / 'whole'}")
    assert cut.predictions["sha256"] == whole.predictions["sha256"]
    assert {name: part["facts"]["sha256"] for name, part in parts(cut).items()} == {
        name: part["facts"]["sha256"] for name, part in parts(whole).items()
    }
