"""MasakhaNEWS: label sets by language, text fields, its file format, and the real files where they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task

INVENTORY = ["business", "entertainment", "health", "politics", "religion", "sports", "technology"]

LACKS = {
    "amh": {"entertainment", "religion", "technology"},
    "eng": {"religion"},
    "fra": {"entertainment", "religion"},
    "hau": set(),
    "ibo": {"technology"},
    "lin": {"entertainment", "religion", "technology"},
    "lug": {"entertainment", "technology"},
    "orm": {"business", "religion"},
    "pcm": {"religion", "technology"},
    "run": {"technology"},
    "sna": {"entertainment", "religion", "technology"},
    "som": set(),
    "swa": set(),
    "tir": {"religion"},
    "xho": {"religion", "technology"},
    "yor": {"business", "technology"},
}
"""Labels that a language lacks, as counted in the released files."""

TEST_COUNTS = {
    "amh": {"business": 81, "health": 100, "politics": 100, "sports": 95},
    "eng": {"business": 160, "entertainment": 150, "health": 150, "politics": 165, "sports": 200, "technology": 123},
    "hau": {
        "business": 80,
        "entertainment": 100,
        "health": 99,
        "politics": 100,
        "religion": 99,
        "sports": 100,
        "technology": 59,
    },
    "lin": {"business": 17, "health": 39, "politics": 100, "sports": 19},
    "xho": {"business": 15, "entertainment": 100, "health": 20, "politics": 62, "sports": 100},
}

HEADER = "category\theadline\ttext\turl\n"
ROWS = (
    'business\tPrices "rise"\t"First line.\n\nA ""quoted"" word,\ta tab and\u2028a separator."\thttps://x\n'
    "health\t\ufeffClinic opens\tN/A\t\n"
    "politics\tVote\tnull\thttps://y\n"
    "sports\tCup final\tNone\thttps://z\n"
)


def write_language(folder: Path, lang: str = "amh", rows: str = ROWS, **splits: str) -> Path:
    """A data folder with one language: the same rows in every split unless given."""
    (folder / "masakhanews" / lang).mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (folder / "masakhanews" / lang / f"{split}.tsv").write_text(HEADER + splits.get(split, rows), newline="")
    return folder


def test_every_language_has_its_own_labels_and_sizes(task_config):
    assert task_config("masakhanews", "task.lang=yor").subset == "yor"
    cfg = task_config("masakhanews")
    for lang, missing in LACKS.items():
        subset = cfg.subsets[lang]
        assert subset["labels"] == [label for label in INVENTORY if label not in missing]
        assert set(subset["sizes"]) == {"train", "dev", "test"}
    assert set(cfg.subsets) == set(LACKS) == set(cfg.languages)
    assert cfg.main_metric == "f1_weighted"
    assert sum(subset["sizes"]["test"] for subset in cfg.subsets.values()) == 6242


def test_articles_with_quotes_newlines_tabs_and_separators_inside(tmp_path, task_config):
    data = load_task(task_config("masakhanews", "task.lang=amh"), write_language(tmp_path))
    assert [row.id for row in data.train] == ["train:0", "train:1", "train:2", "train:3"]
    assert [row.id for row in data.test][-1] == "test:3"
    assert data.train[0].text == 'Prices "rise" First line.\n\nA "quoted" word,\ta tab and\u2028a separator.'
    assert [row.target for row in data.train] == ["business", "health", "politics", "sports"]
    assert data.train[1].text == "\ufeffClinic opens N/A"
    assert data.labels == ("business", "health", "politics", "sports")
    assert data.label_words == {label: label for label in data.labels}
    assert (data.main_metric, data.metrics) == ("f1_weighted", ("f1_weighted", "f1_macro", "accuracy"))
    assert (data.name, data.subset, data.languages, data.source.kind) == ("masakhanews", "amh", ("amh",), "local")
    assert set(data.source.files) == {"amh/train.tsv", "amh/dev.tsv", "amh/test.tsv"}


@pytest.mark.parametrize(("text", "expected"), [("headline", "Vote"), ("text", "null"), ("headline_text", "Vote null")])
def test_text_field(tmp_path, task_config, text, expected):
    cfg = task_config("masakhanews", "task.lang=amh", f"task.text={text}")
    assert load_task(cfg, write_language(tmp_path)).train[2].text == expected


def test_the_text_field_changes_the_data_hash(tmp_path, task_config):
    folder = write_language(tmp_path)
    hashes = {
        load_task(task_config("masakhanews", "task.lang=amh", f"task.text={text}"), folder).sha256()
        for text in ("headline", "text", "headline_text")
    }
    assert len(hashes) == 3


def test_short_splits_are_noted(tmp_path, task_config):
    notes = load_task(task_config("masakhanews", "task.lang=amh"), write_language(tmp_path)).notes
    assert [note.split(";")[0] for note in notes] == [
        "train: 4 of the official 1311 rows",
        "dev: 4 of the official 188 rows",
        "test: 4 of the official 376 rows",
    ]


def test_a_label_of_another_language_is_an_error_with_file_and_line(tmp_path, task_config):
    folder = write_language(tmp_path, dev=ROWS + "technology\tChips\tfaster\t\n")
    with pytest.raises(
        UsageError, match=r"amh/dev\.tsv, line 8: the label `technology` is not in the label set of `amh`"
    ):
        load_task(task_config("masakhanews", "task.lang=amh"), folder)


def test_a_misspelt_label_gets_the_nearest(tmp_path, task_config):
    folder = write_language(tmp_path, test="helth\ta\tb\t\n")
    with pytest.raises(UsageError, match=r"test\.tsv, line 2: the label `helth` .* Did you mean `health`\?"):
        load_task(task_config("masakhanews", "task.lang=amh"), folder)


def test_a_file_without_the_category_column(tmp_path, task_config):
    folder = write_language(tmp_path)
    (folder / "masakhanews" / "amh" / "train.tsv").write_text("label\theadline\ttext\nhealth\ta\tb\n")
    with pytest.raises(UsageError, match=r"train\.tsv, line 1: column `category` missing"):
        load_task(task_config("masakhanews", "task.lang=amh"), folder)


def test_labels_file_has_to_agree(tmp_path, task_config):
    folder = write_language(tmp_path)
    labels = folder / "masakhanews" / "amh" / "labels.txt"
    labels.write_text("business\nhealth\npolitics\nsports\n")
    assert load_task(task_config("masakhanews", "task.lang=amh"), folder).labels[0] == "business"
    labels.write_text("business\nhealth\nsports\n")
    with pytest.raises(UsageError, match=r"labels\.txt: lists business, health, sports, but the labels of `amh` are"):
        load_task(task_config("masakhanews", "task.lang=amh"), folder)


def test_an_unknown_language_names_the_key(task_config):
    with pytest.raises(UsageError, match=r"task\.lang=hua: .* Did you mean `hau`\?"):
        load_task(task_config("masakhanews", "task.lang=hua"), None)


def test_hub_labels_are_mapped_by_name(tmp_path, task_config, monkeypatch):
    """The hub numbers all seven labels; in a language with four of them `sports` is its number 5 and our position 3."""
    import huggingface_hub
    import pyarrow as pa
    from pyarrow import parquet

    def write(labels: list[int]) -> None:
        columns = {
            "label": labels,
            "headline": ["h"] * len(labels),
            "headline_text": ["unused"] * len(labels),
            "text": ["t"] * len(labels),
            "url": [""] * len(labels),
        }
        for split in ("train", "validation", "test"):
            parquet.write_table(pa.table(columns), folder / f"masakhanews-{split}.parquet")

    folder = tmp_path / "commit" / "amh"
    folder.mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder.parent))
    cfg = task_config("masakhanews", "task.lang=amh")

    write([0, 5, 2, 3])
    data = load_task(cfg, None)
    assert [row.target for row in data.train] == ["business", "sports", "health", "politics"]
    assert [row.id for row in data.dev] == ["dev:0", "dev:1", "dev:2", "dev:3"]
    assert data.train[0].text == "h t"
    assert (data.source.kind, data.source.revision) == ("hub", "commit")

    for unknown in (4, -1, 7):  # religion, which Amharic lacks; unlabelled; beyond the inventory
        write([0, unknown])
        with pytest.raises(
            UsageError, match=rf"parquet, row 2: the label `{unknown}` is not in the label set of `amh`"
        ):
            load_task(cfg, None)


@pytest.mark.data
@pytest.mark.slow
def test_real_files_have_the_known_counts(real_data, task_config):
    for lang in LACKS.keys() - {"lug", "som"}:
        cfg = task_config("masakhanews", f"task.lang={lang}")
        data = load_task(cfg, real_data)
        sizes = cfg.subsets[lang]["sizes"]
        assert (len(data.dev), len(data.test)) == (sizes["dev"], sizes["test"])
        assert {row.target for row in data.test} == set(data.labels)
        assert (len(data.train) < sizes["train"]) == (len(data.notes) == 1)
        if lang in TEST_COUNTS:
            assert Counter(row.target for row in data.test) == TEST_COUNTS[lang]
