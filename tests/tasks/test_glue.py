"""GLUE's formats on a few rows written here, and its counts on the real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.tasks import load_task

SUBSETS = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.tsv").write_bytes(content.encode())


@pytest.fixture
def load(task_config, tmp_path):
    return lambda subset: load_task(task_config("glue", f"task.subset={subset}"), tmp_path)


def test_cola_has_no_header_and_often_an_empty_star(load, tmp_path):
    write(
        tmp_path / "glue/CoLA",
        train="gj04\t1\t\tThe cat sat.\ngj04\t0\t*\tCat the sat.\n",
        dev="cj99\t1\t\tBirds sing.",  # no final newline
        test="index\tsentence\n0\tHidden.\n",
    )
    data = load("cola")
    assert [(r.id, r.text, r.target, r.pair) for r in data.train] == [
        ("train:0", "The cat sat.", "acceptable", None),
        ("train:1", "Cat the sat.", "unacceptable", None),
    ]
    assert [r.text for r in data.dev] == ["Birds sing."]
    assert len(data.test) == 0  # GLUE's test labels are hidden
    assert (data.main_metric, data.labels) == ("mcc", ("unacceptable", "acceptable"))


def test_mrpc_has_a_bom_and_lone_quotes_that_must_not_swallow_rows(load, tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    rows = '1\t1\t2\t" He said so .\tHe said " so .\n0\t3\t4\tThe sky is blue .\tN/A\n1\t5\t6\tA " quote .\tnull\n'
    write(tmp_path / "glue/MRPC", train=header + rows, dev=header + rows)
    data = load("mrpc")
    assert [r.pair for r in data.train] == ['He said " so .', "N/A", "null"]
    assert data.train[0].text == '" He said so .'
    assert data.labels[-1] == "equivalent"  # the last label is the positive class of f1_binary
    assert data.train[0].target == "equivalent"
    assert (data.main_metric, data.metrics) == ("f1_binary", ("f1_binary", "accuracy"))
    assert data.label_words == {"not_equivalent": "not equivalent", "equivalent": "equivalent"}


def test_sst2_drops_the_trailing_space_of_train_phrases(load, tmp_path):
    write(tmp_path / "glue/SST-2", train="sentence\tlabel\na fine film \t1\n", dev="sentence\tlabel\ndull\t0\n")
    data = load("sst2")
    assert (data.train[0].text, data.train[0].target, data.dev[0].target) == ("a fine film", "positive", "negative")


def test_stsb_is_regression_from_0_to_5(load, tmp_path):
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    row = "0\tg\tf\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t{}\n"
    write(tmp_path / "glue/STS-B", train=header + row.format("5.000") + row.format("0.8"), dev=header + row.format(0))
    data = load("stsb")
    assert (data.problem, data.labels, data.score_range) == ("regression", (), (0.0, 5.0))
    assert [r.target for r in data.train] == [5.0, 0.8]
    assert data.metrics == ("pearson", "spearman")


@pytest.mark.parametrize("score", ["5.1", "-1", "nan", "high", ""])
def test_stsb_refuses_a_score_out_of_range_by_line(load, tmp_path, score):
    header = "sentence1\tsentence2\tscore\n"
    write(tmp_path / "glue/STS-B", train=f"{header}a\tb\t1\na\tb\t{score}\n", dev=header + "a\tb\t1\n")
    with pytest.raises(UsageError, match=r"train\.tsv, line 3: the score"):
        load("stsb")


def test_mnli_takes_dev_matched_as_dev_and_mismatched_beside_the_test_set(load, tmp_path):
    rows = "index\tsentence1\tsentence2\tgold_label\n0\tIt rains .\tIt is {} .\t{}\n"
    write(
        tmp_path / "glue/MNLI",
        train=rows.format("wet", "entailment"),
        dev_matched=rows.format("dry", "contradiction"),
        dev_mismatched=rows.format("Monday", "neutral"),
    )
    data = load("mnli")
    assert data.labels == ("entailment", "neutral", "contradiction")
    assert (data.train[0].target, data.dev[0].target) == ("entailment", "contradiction")
    assert [(r.id, r.target) for r in data.extra_tests["mismatched"]] == [("mismatched:0", "neutral")]
    assert any(note.startswith("mismatched: 1 of the official 9832 rows") for note in data.notes)
    assert data.fields == ("premise", "hypothesis")


@pytest.mark.parametrize(
    ("subset", "folder", "columns", "label", "name"),
    [
        ("qqp", "QQP", "question1\tquestion2\tis_duplicate", "1", "duplicate"),
        ("qnli", "QNLI", "question\tsentence\tlabel", "not_entailment", "not_entailment"),
        ("rte", "RTE", "sentence1\tsentence2\tlabel", "entailment", "entailment"),
        ("wnli", "WNLI", "sentence1\tsentence2\tlabel", "1", "entailment"),
    ],
)
def test_pair_tasks_read_digits_and_words(load, tmp_path, subset, folder, columns, label, name):
    text = f"index\t{columns}\n0\tone\ttwo\t{label}\n"
    write(tmp_path / "glue" / folder, train=text, dev=text)
    row = load(subset).train[0]
    assert (row.text, row.pair, row.target) == ("one", "two", name)


def test_short_train_is_noted(load, tmp_path):
    text = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n"
    write(tmp_path / "glue/WNLI", train=text, dev=text)
    assert any(note.startswith("train: 1 of the official 635 rows") for note in load("wnli").notes)


def test_unknown_label_names_file_and_line(load, tmp_path):
    text = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tentailmnt\n"
    write(tmp_path / "glue/RTE", train=text, dev=text)
    with pytest.raises(UsageError, match=r"train\.tsv, line 3: the label `entailmnt`.*Did you mean `entailment`"):
        load("rte")


def test_missing_column_names_the_file(load, tmp_path):
    write(tmp_path / "glue/RTE", train="index\tpremise\n0\ta\n", dev="index\tpremise\n0\ta\n")
    with pytest.raises(UsageError, match=r"train\.tsv, line 1: columns `sentence1`, `sentence2`, `label`"):
        load("rte")


def test_unknown_subset_names_the_nearest(load):
    with pytest.raises(UsageError, match=r"task\.subset=mrcp.*Did you mean `mrpc`"):
        load("mrcp")


@pytest.mark.parametrize("subset", SUBSETS)
def test_alias_is_the_subset_with_a_description_of_its_own(task_config, subset):
    alias = task_config(subset)
    assert alias == replace(task_config("glue"), subset=subset, description=alias.description)


def test_metadata_is_there_for_every_subset(task_config):
    cfg = task_config("glue")
    assert sorted(cfg.subsets) == sorted(SUBSETS)
    assert cfg.hub["revision"] == cfg.revision
    for own in cfg.subsets.values():
        assert {"train", "dev"} <= set(own["sizes"])
        assert own.get("main_metric", cfg.main_metric) in own.get("metrics", cfg.metrics)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A snapshot as the hub's cache would hold it; nothing is downloaded."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    snapshot = tmp_path / "0123456789abcdef"

    def serve(name: str, **splits: list[dict]) -> None:
        (snapshot / name).mkdir(parents=True)
        for split, rows in splits.items():
            table = pyarrow.Table.from_pylist(rows)
            parquet.write_table(table, snapshot / name / f"{split}-00000-of-00001.parquet")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(snapshot))

    return serve


def test_hub_rows_have_their_own_columns_and_digit_labels(hub, task_config):
    row = {"premise": "It rains.", "hypothesis": "It is dry.", "label": 2, "idx": 0}
    hub("mnli", train=[row], validation_matched=[row], validation_mismatched=[row | {"label": 1}])
    data = load_task(task_config("glue", "task.subset=mnli"), None)
    assert (data.train[0].text, data.train[0].pair, data.train[0].target) == (*list(row.values())[:2], "contradiction")
    assert data.extra_tests["mismatched"][0].target == "neutral"
    assert (data.source.kind, data.source.revision) == ("hub", "0123456789abcdef")


def test_hub_regression(hub, task_config):
    row = {"sentence1": "A plane.", "sentence2": "A jet.", "label": 4.2, "idx": 0}
    hub("stsb", train=[row], validation=[row])
    assert load_task(task_config("glue", "task.subset=stsb"), None).dev[0].target == 4.2


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("subset", "train", "dev"),
    [
        ("cola", 8551, 1043),
        ("sst2", 67349, 872),
        ("mrpc", 3667, 408),
        ("stsb", 5749, 1500),
        ("qqp", 8999, 1000),
        ("mnli", 8999, 1000),
        ("qnli", 9999, 5463),
        ("rte", 2490, 277),
        ("wnli", 635, 71),
    ],
)
def test_real_counts(task_config, real_data, subset, train, dev):
    data = load_task(task_config("glue", f"task.subset={subset}"), real_data)
    assert (len(data.train), len(data.dev), len(data.test)) == (train, dev, 0)
    assert len(data.extra_tests.get("mismatched", ())) == (1000 if subset == "mnli" else 0)
    assert len({row.id for row in [*data.train, *data.dev]}) == train + dev
    assert {row.target for row in data.dev} == set(data.labels) or data.problem == "regression"


@pytest.mark.data
@pytest.mark.slow
def test_real_texts_like_missing_values_stay_texts(task_config, real_data):
    data = load_task(task_config("glue", "task.subset=mnli"), real_data)
    assert sum(row.pair.lower().rstrip(" .") in {"n/a", "null", "none", "na"} for row in data.train) == 2
