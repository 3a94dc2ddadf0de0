"""`task=hf`: local files and folders through `datasets`, and a hub that is made up."""

import json

import pytest

from peftbench.config.sections import build_section
from peftbench.errors import UsageError
from peftbench.tasks import load_task

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(path, **values):
    return load_task(build_section("task", {"adapter": "hf", "path": str(path), **values}), None)


def records(n, offset=0):
    return [{"text": f"text {i + offset}", "label": "ab"[i % 2]} for i in range(n)]


def test_a_local_folder_and_a_local_file(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, records(20))))
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, records(6, 100))))
    data = load(folder)
    assert [len(split) for split in (data.train, data.dev, data.test)] == [20, 0, 6]
    assert data.source.kind == "local"
    assert set(data.source.files) == {"train.jsonl", "test.jsonl"}
    alone = load(folder / "train.jsonl")
    assert [len(split) for split in (alone.train, alone.dev, alone.test)] == [16, 2, 2]
    with pytest.raises(UsageError, match=r"task\.splits\.dev=validaton: no such split"):
        load(folder, splits={"train": "train", "dev": "validaton"})


class MadeUpBuilder:
    """What `load_dataset_builder` gives for a data set of the hub."""

    hash = "0123456789abcdef0123456789abcdef01234567"

    def download_and_prepare(self):
        pass

    def as_dataset(self):
        label = datasets.ClassLabel(names=["no", "yes"])
        features = datasets.Features({"text": datasets.Value("string"), "label": label})
        columns = {"text": [f"t{i}" for i in range(9)], "label": [0, 1, 0, 1, 0, 1, 0, 1, -1]}
        table = datasets.Dataset.from_dict(columns, features=features)
        return datasets.DatasetDict({"train": table, "validation": table.select(range(2)), "extra": table})


def test_a_data_set_of_the_hub_has_its_commit_and_the_names_of_its_classes(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a, **k: asked.append((a, k)) or MadeUpBuilder())
    data = load("org/name", config="small", revision="main")
    assert asked == [(("org/name", "small"), {"revision": "main"})]
    assert (data.source.kind, data.source.where, data.source.revision) == ("hub", "org/name", MadeUpBuilder.hash)
    assert data.labels == ("no", "yes")
    assert (len(data.train), len(data.dev), len(data.unlabeled)) == (6, 2, 1)  # two of train stand in dev; -1 is hidden


def test_what_stops_the_library_is_one_message(monkeypatch):
    def script(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found name.py")

    monkeypatch.setattr(datasets, "load_dataset_builder", script)
    with pytest.raises(UsageError, match=r"task\.path=org/name: `datasets` cannot load it .*scripts are no longer"):
        load("org/name")
