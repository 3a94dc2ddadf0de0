"""Data sets of the hub: what is fetched, and what is said of files that are no use. What the hub answers besides is
tested in tests/hub, and `task=hf` in test_hf.py."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from tiers import rest_slow

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.base import TaskData

SPLITS = ("train", "validation", "test")


def table(labels: list[Any], **columns: Any) -> bytes:
    rows = {"headline": "h", "headline_text": "unused", "text": "t", "url": ""}
    made = {"label": labels, **{name: [f"{name} {i}" for i, _ in enumerate(labels)] for name in rows}, **columns}
    file = io.BytesIO()
    parquet.write_table(pa.table({name: values for name, values in made.items() if values is not None}), file)
    return file.getvalue()


GOOD = table([0, 1, 2, 3, 5, 6])


@pytest.fixture
def news(hub, task_config):
    """`news(test=...)`: MasakhaNEWS eng of a hub with other bytes for some splits (None: no such file), and what is
    read of it."""

    asked = task_config("masakhanews", "task.lang=eng", "task.hub.repo=ds/news")

    def load(revision: str = "", **others: bytes | None) -> TaskData:
        splits = {split: others.get(split, GOOD) for split in SPLITS}
        files = {f"eng/masakhanews-{split}.parquet": content for split, content in splits.items() if content}
        commit = hub.dataset("ds/news").commit({**files, "hau/masakhanews-test.parquet": b"not asked for"})
        return load_task(replace(asked, hub={**asked.hub, "revision": revision or commit}), None)

    return load


def test_a_data_set_is_said_fetched_and_recorded(news, hub, capfd):
    data = news()
    commit = hub.dataset("ds/news").refs["main"]
    assert (data.source.kind, data.source.where, data.source.revision) == ("hub", "ds/news", commit)
    assert set(data.source.files) == {f"eng/masakhanews-{split}.parquet" for split in SPLITS}
    assert f"peftbench: fetching ds/news@{commit}, " in capfd.readouterr().err
    assert not any("hau" in asked for asked in hub.requests if "/resolve/" in asked)
    hub.requests.clear()
    assert news().sha256() == data.sha256()
    assert hub.requests == []


def test_a_branch_of_a_data_set_is_recorded_as_its_commit(news, hub):
    assert news("main").source.revision == hub.dataset("ds/news").refs["main"]


NO_USE = [
    (table([]), r"masakhanews-test\.parquet: columns but no rows\. It is so on the hub: read another commit"),
    (table([0, 4]), r"row 2 of the hub's file .*test\.parquet: the label `4` .*Valid: 0 \(business\), 1 \(entert"),
    (table([0, -1]), r"row 2 of the hub's file .*: the label `-1` .*Valid: 0 \(business\)"),
    (table(["business"]), r"row 1 of the hub's file .*`business` .*This file has to say 0 for `business`"),
    (table([0], text=[None]), r"row 1 of the hub's file .*: `text` has to be text, found None"),
    (table([0], text=None), r"row 1 of the hub's file .*: column `text` missing\. Found: "),
    (b"PAR1 no parquet", r"not a readable parquet file .*It is so on the hub"),
    (None, r"the commit has no file eng/masakhanews-test\.parquet"),
]


@pytest.mark.parametrize(
    ("test", "said"),
    rest_slow(NO_USE, NO_USE[:2]),
    ids=["empty", "not of eng", "hidden", "names", "null", "column", "torn", "absent"],
)
def test_files_of_the_hub_that_are_no_use(test, said, news):
    with pytest.raises(UsageError, match=said) as raised:
        news(test=test)
    assert "network" not in str(raised.value), "there was one"


@pytest.mark.parametrize(
    ("place", "how", "headers", "said"),
    [
        ("tree", 403, {"X_Error_Code": "GatedRepo"}, r"ds/news@\w+ \(the repository is gated\)"),
        ("file", 403, {"X_Error_Code": "GatedRepo"}, r"\(the repository is gated\)\n .*or accept its licence"),
        ("tree", "page", {}, r"\(HF_ENDPOINT=http://127\S+ did not answer as a hub\)"),
    ],
)
def test_what_the_hub_answers_is_said_as_for_models(place, how, headers, said, news, hub):
    hub.dataset("ds/news").fault(place, how, **headers)
    with pytest.raises(UsageError, match=said) as raised:
        news()
    assert "Client Error" not in str(raised.value)


def test_a_revision_that_the_hub_has_not(news):
    with pytest.raises(UsageError, match=r"\(the hub has no such revision\)\n .*leave task\.hub\.revision empty"):
        news("0" * 40)


def test_a_file_damaged_on_this_disk_is_fetched_again(news, hub, capfd):
    from peftbench.hub import Repository

    data = news()
    folder = Repository("ds/news", "dataset").snapshot(str(data.source.revision)) / "eng"
    blob = (folder / "masakhanews-test.parquet").resolve()
    blob.write_bytes(blob.read_bytes()[:-9] + bytes(9))
    assert news().sha256() == data.sha256()
    assert "is damaged" in capfd.readouterr().err
