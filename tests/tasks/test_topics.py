"""The topic sets: every layout on a few rows, every alias, and the real files where they are."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task

ALIASES = {
    "ag_news": "ag_news",
    "yahoo_answers": "yahoo_answers",
    "imdb": "imdb",
    "amazon_review": "amazon_review",
    "yelp_review": "yelp_review",
    "mr": "mr",
    "cr": "cr",
    "mpqa": "mpqa",
    "subj": "subj",
    "sst5": "sst-5",
    "trec": "trec",
    "sci_cite": "sci-cite",
    "citation_intent": "citation_intent",
    "snli": "snli",
}

REAL = {
    "ag_news": ((5000, 0, 1000), 4),
    "ag_news_full": ((5000, 0, 7600), 4),
    "yahoo_answers": ((1000, 0, 1000), 10),
    "imdb": ((1000, 0, 1000), 2),
    "amazon_review": ((1000, 0, 1000), 5),
    "yelp_review": ((1000, 0, 1000), 5),
    "mr": ((7795, 867, 2000), 2),
    "cr": ((1597, 178, 2000), 2),
    "mpqa": ((7742, 861, 2000), 2),
    "subj": ((7200, 800, 2000), 2),
    "sst-5": ((7689, 855, 2210), 5),
    "trec": ((4906, 546, 500), 6),
    "sci-cite": ((7320, 916, 1861), 3),
    "citation_intent": ((1688, 114, 139), 6),
    "snli": ((8999, 1000, 0), 3),
}
"""Subset -> rows of train, dev and test in the real files, and the number of labels."""


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(content, newline="")


def test_an_alias_is_the_subset_with_a_description_of_its_own(task_config):
    topics = task_config("topics")
    for alias, subset in ALIASES.items():
        cfg = task_config(alias)
        assert cfg == replace(topics, subset=subset, description=cfg.description)
        assert cfg.description != topics.description


def test_every_subset_is_complete(task_config):
    cfg = task_config("topics")
    assert set(cfg.subsets) == set(REAL)
    for name, subset in cfg.subsets.items():
        labels = subset["labels"]
        names = list(labels.values()) if isinstance(labels, dict) else labels
        assert len(names) == len(set(names)) == REAL[name][1]
        assert set(subset.get("label_words", {})) <= set(names)
        words = [subset.get("label_words", {}).get(label, label) for label in names]
        assert len(words) == len(set(words)), name
        assert subset["sizes"]
    assert cfg.main_metric == "accuracy"
    assert "f1_macro" in cfg.metrics


def test_lm_bff_files_are_quoted_and_their_columns_change_places(tmp_path, task_config):
    write(
        tmp_path / "other" / "lmbff" / "trec",
        train_tsv='sentence\tlabel\n"What does ""NASA"" stand\tfor ?"\t2\nWho am I ?\t3\n',
        dev_tsv="sentence\tlabel\nWhere is it ?\t4\n",
        test_csv='5,"How far , in miles ?"\n0,What is it ?\n',
    )
    data = load_task(task_config("trec"), tmp_path)
    assert [(row.id, row.text, row.target) for row in data.train] == [
        ("train:0", 'What does "NASA" stand\tfor ?', "abbreviation"),
        ("train:1", "Who am I ?", "human"),
    ]
    assert [(row.text, row.target) for row in data.test] == [
        ("How far , in miles ?", "number"),
        ("What is it ?", "description"),
    ]
    assert data.dev[0].target == "location"
    assert data.label_words["abbreviation"] == "Expression"
    assert (data.name, data.subset, data.main_metric) == ("topics", "trec", "accuracy")


def test_a_quote_that_happens_to_be_closed_in_a_later_line_is_noted_and_can_be_unquoted(tmp_path, task_config):
    unquoted = 'sentence\tlabel\n"open quote ?\t2\nmiddle ?\t3\nclosed"\t4\nlast ?\t2\n'
    write(tmp_path / "other" / "lmbff" / "trec", train_tsv=unquoted, test_csv="5,What ?\n")
    data = load_task(task_config("trec"), tmp_path)
    assert len(data.train) == 2
    note = next(note for note in data.notes if "quoted field over several lines" in note)
    assert note.startswith("train: 1 of 2 rows")
    option = note.rpartition(" set ")[2]
    data = load_task(task_config("trec", f"++{option}"), tmp_path)
    assert [row.text for row in data.train] == ['"open quote ?', "middle ?", 'closed"', "last ?"]
    assert not any("several lines" in note for note in data.notes)


AG_NEWS = {
    "train_csv": '"Big, news",3\nwar,0\n',
    "test_csv": "cup,1\nshares,2\n",
    "test_full_csv": '"3","Shares","fell, again"\n"1","War","ends"\n"4","Chip","is fast"\n',
}


def test_ag_news_labels_start_at_0_in_one_file_and_at_1_in_the_other(tmp_path, task_config):
    write(tmp_path / "other" / "ag_news", **AG_NEWS)
    small = load_task(task_config("ag_news"), tmp_path)
    assert [row.target for row in small.train] == ["tech", "world"]
    assert [row.target for row in small.test] == ["sports", "business"]
    full = load_task(task_config("topics", "task.subset=ag_news_full"), tmp_path)
    assert [(row.text, row.target) for row in full.test] == [
        ("Shares fell, again", "business"),
        ("War ends", "world"),
        ("Chip is fast", "tech"),
    ]
    assert full.train == small.train
    assert full.labels == small.labels == ("world", "sports", "business", "tech")


def test_a_wrong_label_base_is_an_error_and_not_another_class(tmp_path, task_config):
    write(tmp_path / "other" / "ag_news", **{**AG_NEWS, "test_full_csv": "0,War,ends\n"})
    with pytest.raises(
        UsageError, match=r"test_full\.csv, line 1: the label `0` .* Valid: 1 \(world\), .* 4 \(tech\)\."
    ):
        load_task(task_config("topics", "task.subset=ag_news_full"), tmp_path)
    write(tmp_path / "b" / "other" / "ag_news", **{**AG_NEWS, "test_csv": "chip,4\n"})
    with pytest.raises(UsageError, match=r"test\.csv, line 1: the label `4` .* Valid: 0 \(world\), .* 3 \(tech\)\."):
        load_task(task_config("ag_news"), tmp_path / "b")


def jsonl(*records: dict) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_without_a_train_file_the_dev_rows_are_drawn_from(tmp_path, task_config):
    folder = tmp_path / "other" / "aclImdb"
    reviews = jsonl({"ori": "bad\u0085film", "label": "0"}, {"ori": "good film", "label": "1"})
    write(folder, dev_jsonl=reviews, test_jsonl=reviews)
    data = load_task(task_config("imdb"), tmp_path)
    assert [(row.id, row.text, row.target) for row in data.train] == [
        ("dev:0", "bad\u0085film", "negative"),
        ("dev:1", "good film", "positive"),
    ]
    assert len(data.dev) == 0
    assert any("place is taken by the rows of the dev file" in note for note in data.notes)
    (folder / "train.jsonl").write_text(jsonl({"ori": "own train row", "label": "1"}))
    data = load_task(task_config("imdb"), tmp_path)
    assert [row.id for row in data.train] == ["train:0"]
    assert len(data.dev) == 2
    assert not any("place is taken" in note for note in data.notes)


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_text_that_is_no_text_is_an_error(tmp_path, task_config, value):
    rows = jsonl({"ori": "fine", "label": 0}, {"ori": value, "label": 1})
    write(tmp_path / "other" / "aclImdb", dev_jsonl=rows, test_jsonl=rows)
    with pytest.raises(UsageError, match=r"jsonl, line 2: `ori` has to be text, found"):
        load_task(task_config("imdb"), tmp_path)


def test_snli_is_a_pair_task_without_a_test_file(tmp_path, task_config):
    row = {"text_a": "A man sleeps.", "text_b": "N/A", "label": "entailment"}
    write(tmp_path / "other" / "snli", train_jsonl=jsonl(row), dev_jsonl=jsonl({**row, "label": "neutral"}))
    data = load_task(task_config("snli"), tmp_path)
    assert (data.train[0].text, data.train[0].pair, data.train[0].target) == ("A man sleeps.", "N/A", "entailment")
    assert data.fields == ("premise", "hypothesis")
    assert data.label_words == {"contradiction": "no", "entailment": "yes", "neutral": "maybe"}
    assert len(data.test) == 0


def test_json_in_txt_files(tmp_path, task_config):
    row = jsonl({"text": "We follow them", "label": "CompareOrContrast", "metadata": {}})
    write(tmp_path / "other" / "citation_intent", train_txt=row, dev_txt=row, test_txt=row)
    data = load_task(task_config("citation_intent"), tmp_path)
    assert data.test[0].target == "CompareOrContrast"
    assert data.label_words["CompareOrContrast"] == "comparison"


def test_hub_copies_have_a_layout_of_their_own(tmp_path, task_config, monkeypatch):
    import huggingface_hub
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "plain_text").mkdir()
    for split in ("train", "test"):
        table = pa.table({"text": ["dull", "great"], "label": [0, 1]})
        parquet.write_table(table, tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    data = load_task(task_config("imdb"), None)
    assert [(row.id, row.text, row.target) for row in data.test] == [
        ("test:0", "dull", "negative"),
        ("test:1", "great", "positive"),
    ]
    assert data.source.kind == "hub"


def test_sets_without_a_hub_copy_say_how_to_get_them(tmp_path, task_config):
    (tmp_path / "unrelated").mkdir()
    with pytest.raises(UsageError, match=r"other/lmbff/mr/train\.tsv.*\n.*no copy on the hub"):
        load_task(task_config("mr"), tmp_path)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("subset", "expected"), REAL.items())
def test_real_files_have_the_known_counts(real_data, task_config, subset, expected):
    data = load_task(task_config("topics", f"task.subset={subset}"), real_data)
    assert (len(data.train), len(data.dev), len(data.test)) == expected[0]
    assert len(data.labels) == expected[1]
    assert {row.target for row in [*data.train, *data.test]} == set(data.labels)
    balanced = {"mr": 1000, "cr": 1000, "ag_news_full": 1900, "yahoo_answers": 100, "imdb": 500}
    if subset in balanced:
        assert set(Counter(row.target for row in data.test).values()) == {balanced[subset]}
