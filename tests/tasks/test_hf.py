"""`task=hf`: local files and folders through `datasets`, and a hub that is made up."""

import json

import pytest
from tiers import rest_slow

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


@pytest.fixture
def hub_of_datasets(hub, monkeypatch, tmp_path):
    """`hub`, asked by `datasets` too, which has read these at its import."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")
    table = datasets.Dataset.from_list(records(20))
    table.to_parquet(tmp_path / "train.parquet")
    table.select(range(5)).to_parquet(tmp_path / "test.parquet")
    content = {f"data/{split}-00000-of-00001.parquet": (tmp_path / f"{split}.parquet").read_bytes()
               for split in ("train", "test")}  # fmt: skip
    hub.dataset("org/name").commit({"README.md": b"# made up", **content})
    return hub


def test_a_data_set_is_fetched_through_datasets_said_and_recorded(hub_of_datasets, capfd):
    data = load("org/name")
    commit = hub_of_datasets.dataset("org/name").refs["main"]
    assert (data.source.kind, data.source.where, data.source.revision) == ("hub", "org/name", commit)
    assert (len(data.train), len(data.test)) == (15, 5)
    assert f"peftbench: fetching org/name@{commit}, " in capfd.readouterr().err
    asked = len(hub_of_datasets.requests)
    assert load("org/name").sha256() == data.sha256()
    assert not any("/resolve/" in r and r.endswith(".parquet") for r in hub_of_datasets.requests[asked:])
    assert "fetching" not in capfd.readouterr().err


ANSWERS = [
    ("info", 403, {"X_Error_Code": "GatedRepo"}, r"gated\. Ways out: accept its licence"),
    ("info", 404, {"X_Error_Code": "RevisionNotFound"}, r"no such revision\. Ways out: leave task\.revision empty"),
    ("info", 429, {"Retry_After": "900"}, "wait 900 s"),
    ("info", "page", {}, "did not answer as a hub"),
    ("file", 403, {"X_Error_Code": "GatedRepo"}, r"gated\. Ways out: accept its licence"),
]


@pytest.mark.parametrize(
    ("place", "how", "headers", "said"),
    rest_slow(ANSWERS, ANSWERS[:1] + ANSWERS[-1:]),
)
def test_what_the_hub_answers_is_said_as_for_models(place, how, headers, said, hub_of_datasets):
    hub_of_datasets.dataset("org/name").fault(place, how, **headers)
    with pytest.raises(UsageError, match=rf"task\.path=org/name: .*{said}"):
        load("org/name")


def test_a_broken_file_of_a_data_set_is_no_fault_of_the_hub(hub_of_datasets):
    hub_of_datasets.dataset("org/torn").commit({"train.jsonl": b'{"text": "a", "label": "b"}\n{"text": '})
    with pytest.raises(UsageError, match=r"task\.path=org/torn: `datasets` cannot load it .*Check the files"):
        load("org/torn")


def test_what_stops_the_library_is_one_message(monkeypatch):
    def script(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found name.py")

    monkeypatch.setattr(datasets, "load_dataset_builder", script)
    with pytest.raises(UsageError, match=r"task\.path=org/name: `datasets` cannot load it .*scripts are no longer"):
        load("org/name")
