"""Where data is looked for, in which order, and what is said when it is not there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from peftbench.config.schema import TaskConfig
from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.base import Row
from peftbench.tasks.readers import read_quoted_tsv
from peftbench.tasks.sources import assemble, file_sha256, find_files, note_sizes, resolve_subset

HUB = {
    "repo": "org/set",
    "revision": "abc" + "0" * 37,
    "files": {"train": "{name}/train-*.parquet", "test": "{name}/test-*.parquet"},
}
FILES = {"train": "train.tsv", "dev": ["dev.tsv", "valid.tsv"], "test": "test.tsv"}


def config(**values) -> TaskConfig:
    defaults = {
        "name": "pets",
        "adapter": "topics",
        "subset": "en",
        "description": "cats and dogs",
        "homepage": "https://example.org",
        "licence": "CC0",
        "languages": ["eng"],
        "main_metric": "accuracy",
        "metrics": ["accuracy"],
        "folder": "pets",
        "hub": HUB,
        "label_words": {"cat": "feline"},
        "subsets": {
            "en": {"labels": ["cat", "dog"], "files": FILES, "sizes": {"train": 2}},
            "hau": {"labels": ["cat"]},
        },
    }
    return TaskConfig(**{**defaults, **values})


def write_split(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("text\tlabel\nmiaow\tcat\nwoof\tdog\n")


def fake_hub(monkeypatch, snapshot: Path | Exception) -> list[dict]:
    """Stand in for the network: `snapshot_download` answers with a folder or fails; its calls are returned."""
    import huggingface_hub

    calls = []

    def snapshot_download(repo_id, **arguments):
        calls.append({"repo_id": repo_id, **arguments})
        if isinstance(snapshot, Exception):
            raise snapshot
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def write_snapshot(folder: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    snapshot = folder / "0123456789abcdef"
    (snapshot / "en").mkdir(parents=True)
    for shard, text in enumerate(["miaow", "woof"]):
        table = pa.table({"text": [text], "label": [shard]})
        parquet.write_table(table, snapshot / "en" / f"train-0000{shard}-of-00002.parquet")
    parquet.write_table(pa.table({"text": ["purr"], "label": [0]}), snapshot / "en" / "test-00000-of-00001.parquet")
    return snapshot


def test_subset_merges_its_own_values_over_the_common_ones():
    subsets = {
        "a": {
            "labels": {0: "cat", "dog": "dog", True: "dog"},
            "label_words": {"dog": "canine"},
            "hub": {"name": "A"},
            "k": 1,
        },
        "b": {"metrics": ["mcc"], "main_metric": "mcc", "fields": ["premise", "hypothesis"], "languages": ["hau"]},
    }
    a = resolve_subset(config(subset="a", subsets=subsets))
    assert a.labels == {"0": "cat", "dog": "dog", "true": "dog"}
    assert a.label_names == ("cat", "dog")
    assert a.label_words == {"cat": "feline", "dog": "canine"}
    assert a.hub == {**HUB, "name": "A"}
    assert (a.metrics, a.fields, a.languages, a.options) == (("accuracy",), ("text", "pair"), ("eng",), {"k": 1})
    b = resolve_subset(config(subset="b", subsets=subsets))
    assert (b.main_metric, b.metrics, b.languages) == ("mcc", ("mcc", "accuracy"), ("hau",))
    assert (b.fields, b.labels, b.label_names) == (("premise", "hypothesis"), {}, ())


def test_an_unknown_subset_names_the_key_and_the_nearest():
    with pytest.raises(UsageError, match=r"task\.lang=hua: task `pets` has no such subset\. Did you mean `hau`\?"):
        resolve_subset(config(subset="hua"), key="task.lang")


@pytest.mark.parametrize(
    ("named", "written"), [("\u00e9t\u00e9", "e\u0301te\u0301"), ("e\u0301te\u0301", "\u00e9t\u00e9")]
)
def test_a_label_in_other_code_points_is_the_same_label(named, written):
    subset = resolve_subset(config(subsets={"en": {"labels": [named, "dog"]}}))
    assert subset.label(written, Path("x.tsv"), 3) == named


def test_a_label_outside_the_set_names_file_line_and_nearest():
    subset = resolve_subset(config())
    assert subset.label("dog", Path("x.tsv"), 3) == "dog"
    with pytest.raises(UsageError, match=r"x\.tsv, line 3: the label `dgo` .* Did you mean `dog`\? Valid: cat, dog\."):
        subset.label("dgo", Path("x.tsv"), 3)
    with pytest.raises(UsageError, match=r"the label `DOG` .* Did you mean `dog`\?"):
        subset.label("DOG", Path("x.tsv"), 3)
    for raw in (None, -1, "", "Dog"):
        with pytest.raises(UsageError, match="is not in the label set of `en`"):
            subset.label(raw, Path("x.tsv"), 3)


def test_the_local_folder_comes_first(tmp_path, monkeypatch):
    calls = fake_hub(monkeypatch, AssertionError("the hub must not be asked"))
    write_split(tmp_path / "pets", "train.tsv", "valid.tsv", "test.tsv")
    cfg = config()
    found = find_files(cfg, resolve_subset(cfg), tmp_path)
    assert found.source.kind == "local"
    assert found.source.where == str(tmp_path / "pets")
    content = (tmp_path / "pets" / "train.tsv").read_bytes()
    assert found.source.files["train.tsv"] == hashlib.sha256(content).hexdigest()
    assert set(found.source.files) == {"train.tsv", "valid.tsv", "test.tsv"}
    rows = list(found.records("dev", read_quoted_tsv))
    assert rows[0] == (tmp_path / "pets" / "valid.tsv", 2, {"text": "miaow", "label": "cat"})
    assert not calls


def test_the_hub_comes_second_with_pinned_revision_and_shards_in_order(tmp_path, monkeypatch):
    calls = fake_hub(monkeypatch, write_snapshot(tmp_path))
    (tmp_path / "data" / "other").mkdir(parents=True)
    cfg = config()
    for data_dir in (None, tmp_path / "data"):
        found = find_files(cfg, resolve_subset(cfg), data_dir)
        assert (found.source.kind, found.source.where) == ("hub", "org/set")
        assert (
            found.source.revision == "0123456789abcdef"
        )  # the commit of the snapshot, not the name that was asked for
        records = [record for _, _, record in found.records("train", read_quoted_tsv, columns=["text"])]
        assert records == [{"text": "miaow", "label": 0}, {"text": "woof", "label": 1}]
        assert list(found.records("dev", read_quoted_tsv)) == []
        assert set(found.source.files) == {
            "en/train-00000-of-00002.parquet",
            "en/train-00001-of-00002.parquet",
            "en/test-00000-of-00001.parquet",
        }
    assert calls[0]["revision"] == HUB["revision"]
    assert calls[0]["repo_type"] == "dataset"
    assert calls[0]["allow_patterns"] == ["en/train-*.parquet", "en/test-*.parquet"]
    assert "trust_remote_code" not in calls[0]


@pytest.mark.parametrize("data_dir", [True, False])
def test_one_message_says_what_was_looked_for_and_both_ways_out(tmp_path, monkeypatch, data_dir):
    fake_hub(monkeypatch, LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder"))
    (tmp_path / "unrelated").mkdir()
    cfg = config()
    with pytest.raises(UsageError) as caught:
        find_files(cfg, resolve_subset(cfg), tmp_path if data_dir else None)
    message = str(caught.value)
    assert f"{tmp_path} (data_dir)" in message if data_dir else "data_dir, which is not set" in message
    for part in (
        "pets/train.tsv",
        "pets/test.tsv",
        f"org/set@{HUB['revision']}",
        "not in the hub's cache, and HF_HUB_OFFLINE=1 forbids to ask",
        "data_dir=FOLDER",
        "PEFTBENCH_DATA",
    ):
        assert part in message
    assert "run once with a network" in message


def test_a_task_without_a_hub_copy_says_so(tmp_path, monkeypatch):
    calls = fake_hub(monkeypatch, ConnectionError("unused"))
    cfg = config(hub={})
    with pytest.raises(UsageError, match="no copy on the hub"):
        find_files(cfg, resolve_subset(cfg), None)
    assert not calls


def test_the_real_hub_client_without_network_and_cache_gives_the_same_message(tmp_path):
    """In a process of its own: the client reads HF_HUB_OFFLINE and HF_HOME when it is imported."""
    code = (
        "from peftbench.errors import UsageError\n"
        "from peftbench.tasks.sources import *\n"
        "from peftbench.config.schema import TaskConfig\n"
        f"cfg = TaskConfig(name='pets', subset='en', main_metric='accuracy', licence='CC0', hub={HUB!r},\n"
        f"    subsets={{'en': {{'labels': ['cat'], 'files': {FILES!r}}}}})\n"
        "try:\n    find_files(cfg, resolve_subset(cfg), None)\n"
        "except UsageError as error:\n    print(error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert f"org/set@{HUB['revision']}" in done.stdout
    assert "Ways out" in done.stdout


def test_a_torso_is_an_error_and_not_quietly_replaced_by_the_hub(tmp_path, monkeypatch):
    fake_hub(monkeypatch, write_snapshot(tmp_path / "cache"))
    write_split(tmp_path / "pets", "train.tsv")
    cfg = config()
    with pytest.raises(UsageError, match=rf"holds only a part of the data\. Missing: {tmp_path}/pets/test\.tsv"):
        find_files(cfg, resolve_subset(cfg), tmp_path)


def test_a_data_dir_that_cannot_hold_anything_is_named(tmp_path, monkeypatch):
    fake_hub(monkeypatch, AssertionError("the hub must not be asked"))
    cfg = config()
    subset = resolve_subset(cfg)
    file, empty, locked = tmp_path / "file", tmp_path / "empty", tmp_path / "locked"
    file.write_text("x")
    empty.mkdir()
    write_split(locked, "train.tsv")
    for path, reason in (
        (tmp_path / "absent", "no such folder"),
        (file, "not a folder"),
        (empty, "the folder is empty"),
    ):
        with pytest.raises(UsageError, match=rf"data_dir={path}: {reason}"):
            find_files(cfg, subset, path)
    locked.chmod(0)
    try:
        if os.access(locked, os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(UsageError, match=rf"data_dir={locked}: cannot be read"):
            find_files(cfg, subset, locked)
    finally:
        locked.chmod(0o700)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    from peftbench.tasks import sources

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    write_split(tmp_path / "pets", "train.tsv", "test.tsv")
    monkeypatch.setattr(sources, "file_sha256", refuse)
    cfg = config()
    with pytest.raises(UsageError, match=rf"{tmp_path}/pets/train\.tsv: cannot be read \(Permission denied\)"):
        find_files(cfg, resolve_subset(cfg), tmp_path)


def test_split_sizes_that_are_not_the_official_ones_are_noted():
    rows = [Row(f"train:{i}", "x", "cat") for i in range(3)]
    assert note_sizes({"train": 3}, {"train": rows}) == ()
    short, absent = note_sizes({"train": 5, "dev": 2}, {"train": rows})
    assert short.startswith("train: 3 of the official 5 rows")
    assert absent.startswith("dev: 0 of the official 2 rows")
    assert "the official split has 2" in note_sizes({"train": 2}, {"train": rows})[0]


def test_assemble_fills_in_what_the_yaml_knows(tmp_path):
    write_split(tmp_path / "pets", "train.tsv", "test.tsv")
    cfg = config()
    subset = resolve_subset(cfg)
    found = find_files(cfg, subset, tmp_path)
    train = [Row("train:0", "miaow", "cat")]
    data = assemble(cfg, subset, found, {"train": train}, notes=["a remark"])
    assert (data.name, data.subset, data.labels, data.problem) == ("pets", "en", ("cat", "dog"), "classification")
    assert data.label_words == {"cat": "feline", "dog": "dog"}
    assert data.source is found.source
    assert len(data.notes) == 2
    assert data.notes[0].startswith("train: 1 of the official 2")
    regression = assemble(cfg, subset, found, {}, problem="regression", labels=(), score_range=(0.0, 5.0))
    assert (regression.problem, regression.labels, regression.score_range) == ("regression", (), (0.0, 5.0))


def test_file_sha256(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)
    assert file_sha256(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_an_unknown_adapter_names_the_nearest():
    with pytest.raises(UsageError, match=r"task\.adapter: `topic` is no adapter\. Did you mean `topics`\?"):
        load_task(config(adapter="topic"), None)


def test_importing_the_task_layer_imports_nothing_heavy():
    modules = [
        "peftbench.tasks",
        *(f"peftbench.tasks.{name}" for name in ("readers", "sources", "masakhanews", "demo_news", "topics")),
    ]
    heavy = ["torch", "transformers", "peft", "datasets", "evaluate", "sklearn", "pandas", "pyarrow", "huggingface_hub"]
    code = f"import sys, {', '.join(modules)}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
