"""Task packs by language: their files' traps, on rows written here and on the real files where they are."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task
from peftbench.tasks.lowercase import lower
from peftbench.tasks.protocols import draw

LABELS = ("negative", "neutral", "positive")


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tweets(folder: Path, lang: str, splits=("train", "dev", "test"), columns: str = "tweet\tlabel") -> None:
    """Files of AfriSenti: sorted by label; with an `ID` in front if the columns say so."""
    for split in splits:
        rows = [f"{lang} {split} {label} {i}\t{label}" for label in LABELS for i in range(6)]
        rows = [f"id_{n}\t{row}" if columns.startswith("ID") else row for n, row in enumerate(rows)]
        write(folder / f"more/african/afrisenti/{lang}/{split}.tsv", columns, *rows)


def test_afrisenti_is_sorted_by_label_and_a_draw_takes_all_classes(settled_task, default_protocol, tmp_path):
    tweets(tmp_path, "hau")
    data = load_task(settled_task("afrisenti", "task.lang=hau"), tmp_path)
    assert [row.target for row in data.train] == [label for label in LABELS for _ in range(6)]
    drawn = draw(data, default_protocol, 2)
    assert Counter(row.target for row in drawn.train) == dict.fromkeys(LABELS, 2)


def test_oromo_has_three_columns_and_no_train_rows(settled_task, default_protocol, tmp_path):
    tweets(tmp_path, "orm", splits=("dev", "test"), columns="ID\ttweet\tlabel")
    data = load_task(settled_task("afrisenti", "task.lang=orm"), tmp_path)
    assert (len(data.train), len(data.dev), data.test[0].text) == (0, 18, "orm test negative 0")
    with pytest.raises(UsageError, match=r"shots=4: task `afrisenti`, subset `orm`, has no train rows. Use shots=0"):
        draw(data, default_protocol, 4)


def test_a_quote_is_a_character_of_a_review(settled_task, tmp_path):
    for split in ("train", "dev", "test"):
        write(
            tmp_path / f"more/african/nollysenti/ha/{split}.tsv",
            "ha_review\tsentiment",
            '"Kyau\tpositive',
            "a\tnegative",
        )
    data = load_task(settled_task("nollysenti", "task.lang=hau"), tmp_path)
    assert data.test[0].text == '"Kyau'
    assert data.main_metric == "accuracy"


def sentences(folder: Path, *codes: str) -> None:
    for code in codes:
        for split in ("train", "dev", "test"):
            rows = [f"{i}\t{topic}\t{code} {split} {i}" for i, topic in enumerate(("health", "science/technology"))]
            write(folder / f"more/multilingual/sib200/{code}/{split}.tsv", "index_id\tcategory\ttext", *rows)


def test_sib200_takes_flores_and_iso_codes(settled_task, tmp_path):
    sentences(tmp_path, "swh_Latn", "xyz_Latn")
    for code, folder in (("swa", "swh_Latn"), ("swh", "swh_Latn"), ("swh_Latn", "swh_Latn"), ("xyz_Latn", "xyz_Latn")):
        data = load_task(settled_task("sib200", f"task.lang={code}"), tmp_path)
        assert (data.subset, data.test[0].text) == (folder, f"{folder} test 0")
    assert data.test[1].target == "science/technology"
    assert data.label_words["science/technology"] == "science"


@pytest.mark.parametrize(
    ("lang", "message"),
    [
        ("swaa", r"task\.lang=swaa: no language of SIB-200 .* Did you mean `swa`"),
        ("zho", r"task\.lang=zho: has several scripts. Choose one of zho_Hans, zho_Hant"),
    ],
)
def test_a_wrong_code_is_told_when_the_config_is_composed(settled_task, lang, message):
    with pytest.raises(UsageError, match=message):
        settled_task("sib200", f"task.lang={lang}")


def test_a_missing_language_names_those_that_are_there(settled_task, tmp_path):
    sentences(tmp_path, "swh_Latn", "eng_Latn")
    with pytest.raises(UsageError, match=r"(?s)hau_Latn.*Languages below .*: eng_Latn, swh_Latn"):
        load_task(settled_task("sib200", "task.lang=hau"), tmp_path)


def test_americasnli_trains_on_english(settled_task, tmp_path):
    for split in ("dev", "test"):
        rows = ["7\taym\tJupax\tJaniw\tneutral", "8\taym\tJupax\tJisa\tentailment"]
        write(
            tmp_path / f"more/multilingual/americasnli/{split}/aym.tsv",
            "id\tlanguage\tpremise\thypothesis\tlabel",
            *rows,
        )
    for name in ("train", "dev_matched", "dev_mismatched"):
        rows = ["0\tHe says\tHe speaks\tentailment", "1\tHe says\tNo\tcontradiction"]
        write(tmp_path / f"glue/MNLI/{name}.tsv", "index\tsentence1\tsentence2\tgold_label", *rows)
    data = load_task(settled_task("americasnli", "task.source_lang=eng"), tmp_path)
    assert (data.train[0].text, data.train[0].pair) == ("He says", "He speaks")
    assert (data.test[0].text, data.test[0].pair, data.test[0].target) == ("Jupax", "Janiw", "neutral")
    assert data.labels == ("entailment", "neutral", "contradiction")


def test_turkish_capitals():
    assert lower("ISPARTA \u0130L\u0130 I\u0307", "turkish") == "ısparta ili i"
    assert lower("\u0130", "plain") == "i\u0307"  # a second dot, as Python's lower() makes it
    assert lower("Ab", None) == "Ab"


def test_a_task_in_lower_case_says_so_and_keeps_its_labels(settled_task, tmp_path):
    for split in ("train", "dev", "test"):
        row = json.dumps({"label": "spor", "text": f"KADIN VOLEYBOL\u0130 {split}", "file": "x"})
        write(tmp_path / f"more/turkish/ttc3600/{split}.jsonl", row)
    plain = load_task(settled_task("turkish"), tmp_path)
    low = load_task(settled_task("turkish", "task.lowercase=turkish"), tmp_path)
    assert (plain.test[0].text, low.test[0].text) == ("KADIN VOLEYBOL\u0130 test", "kadın voleyboli test")
    assert (low.test[0].target, low.lowercase) == ("spor", "turkish")
    assert low.sha256() != plain.sha256()


def test_json_lines_may_be_packed(tmp_path):
    from peftbench.tasks.topics import Layout, _read

    path = tmp_path / "tr.json.gz"
    path.write_bytes(gzip.compress(b'{"text": "saat kac", "label": "datetime_query"}\n'))
    assert _read(path, Layout()) == [(1, {"text": "saat kac", "label": "datetime_query"})]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UsageError, match="not a whole gzip file"):
        _read(path, Layout())


def test_copies_on_the_hub_are_read_at_their_commits(settled_task, monkeypatch, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    asked = {}

    def snapshot(repo: str, **how) -> str:
        asked[repo] = how["revision"]
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        write(tmp_path / f"data/tur_Latn/{split}.tsv", "index_id\tcategory\ttext", f'1\thealth\t"{split}')
        path = tmp_path / f"{name}/tr.json.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(json.dumps({"id": "0", "label": "play_radio", "text": split}).encode()))
        table = pa.table({"premise": [split], "hypothesis": ["evet"], "label": [2]})
        (tmp_path / "tr").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / f"tr/{name}-00000-of-00001.parquet")
    sib = load_task(settled_task("sib200", "task.lang=tur"), None)
    massive = load_task(settled_task("turkish", "task.subset=massive"), None)
    xnli = load_task(settled_task("turkish", "task.subset=xnli"), None)
    assert [data.test[0].text for data in (sib, massive, xnli)] == ['"test', "test", "test"]
    assert [data.dev[0].target for data in (sib, massive, xnli)] == ["health", "play_radio", "contradiction"]
    assert xnli.test[0].pair == "evet"
    assert len(massive.labels) == 60
    assert all(len(revision) == 40 for revision in asked.values())


# The real files, against the README that lies beside them.


@pytest.mark.data
@pytest.mark.parametrize(
    ("choice", "lang", "rows"),
    [
        ("afrisenti", "amh", (800, 500, 1000)),
        ("afrisenti", "swa", (800, 453, 748)),
        ("afrisenti", "orm", (0, 396, 1000)),
        ("afrisenti", "tir", (0, 398, 1000)),
        ("nollysenti", "eng", (1302, 100, 500)),
        ("nollysenti", "hau", (410, 100, 500)),
        ("nollysenti", "yor", (900, 100, 500)),
        ("sib200", "swa", (701, 99, 204)),
        ("sib200", "orm", (701, 99, 204)),
        ("americasnli", "aym", (0, 743, 750)),
        ("masakhaner", "hau", (400, 816, 1633)),
        ("masakhaner", "swa", (400, 942, 1883)),
        ("masakhaner", "yor", (400, 983, 1964)),
        ("wikiner", "tur", (2000, 1000, 1000)),
    ],
)
def test_real_files_have_the_rows_of_their_readme(settled_task, real_data, choice, lang, rows):
    if not (real_data / "more").is_dir():
        pytest.skip("the data folder has no second delivery (more/)")
    data = load_task(settled_task(choice, f"task.lang={lang}"), real_data)
    assert (len(data.train), len(data.dev), len(data.test)) == rows


@pytest.mark.data
def test_real_counts_by_label(settled_task, real_data):
    if not (real_data / "more").is_dir():
        pytest.skip("the data folder has no second delivery (more/)")
    topics = Counter(row.target for row in load_task(settled_task("sib200", "task.lang=eng"), real_data).test)
    assert topics == {
        "science/technology": 51, "travel": 40, "politics": 30, "sports": 25, "health": 22, "entertainment": 19,
        "geography": 17,
    }  # fmt: skip
    pidgin = Counter(row.target for row in load_task(settled_task("afrisenti", "task.lang=pcm"), real_data).train)
    assert pidgin["neutral"] == 15
    turkish = Counter(row.target for row in load_task(settled_task("turkish"), real_data).train)
    assert set(turkish.values()) == {120}
    hausa = load_task(settled_task("masakhaner", "task.lang=hau"), real_data)
    entities = Counter(label for row in hausa.test for label in hausa.kind.labels_of(row.target))
    assert entities["PER"] == 1194
    assert any("entities that begin with I-: 1" in note for note in hausa.notes)
