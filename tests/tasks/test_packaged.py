"""The packaged news: there without a folder or a network, complete, and in the shape of every other task."""

from __future__ import annotations

from collections import Counter

from peftbench.tasks import load_task


def test_demo_news_needs_no_folder_and_no_network(task_config, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    data = load_task(task_config("demo_news"), None)
    assert (data.name, data.subset, data.source.kind) == ("demo_news", "eng", "packaged")
    assert set(data.source.files) == {"train.tsv", "dev.tsv", "test.tsv"}
    assert "/" not in data.source.where.split("peftbench/")[0]  # no path of this machine in a record
    assert data.notes == ()
    assert len(data.labels) == 7
    for split, least in (("train", 40), ("dev", 5), ("test", 15)):
        rows = getattr(data, split)
        counts = Counter(row.target for row in rows)
        assert set(counts) == set(data.labels)
        assert min(counts.values()) >= least
        assert [row.id for row in rows] == [f"{split}:{i}" for i in range(len(rows))]
        assert all(len(row.text.split()) > 8 for row in rows)  # a headline and a sentence
    texts = [row.text for row in (*data.train, *data.dev, *data.test)]
    assert len(set(texts)) == len(texts)
    assert data.sha256() == load_task(task_config("demo_news"), tmp_path).sha256()
