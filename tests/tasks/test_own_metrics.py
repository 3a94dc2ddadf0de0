"""`task.metrics` with a function of the user's own, and an `evaluate` class."""

import pytest

from peftbench.config import compose
from peftbench.config.metric_files import fingerprint
from peftbench.errors import UsageError
from peftbench.records.ids import content
from peftbench.tasks import load_task
from peftbench.tasks.base import Row
from peftbench.tasks.metrics import score

CODE = """
PRICE = {"sports": 3}

def saved(references, predictions):
    right = [PRICE.get(r, 1) for r, p in zip(references, predictions) if r == p]
    return sum(right) / sum(PRICE.get(r, 1) for r in references)

def fails(references, predictions):
    raise ValueError("no")

def nothing(references, predictions):
    return float("nan")

not_a_function = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(CODE)
    return path


def data_of(*metrics, **keys):
    listed = ",".join(metrics)
    return load_task(compose([f"task.metrics=[{listed}]", *(f"task.{k}={v}" for k, v in keys.items())]).task, None)


def test_a_function_in_a_file_gets_label_names(file):
    data = data_of(f"'{file}:saved'", "accuracy", main_metric="saved")
    rows = [Row("test:0", "", "sports"), Row("test:1", "", "health"), Row("test:2", "", "health")]
    found = score(data, rows, ["sports", None, "politics"])
    assert found["saved"] == 60
    assert data.main_metric == "saved"
    assert found["accuracy"] == pytest.approx(100 / 3)


def test_a_class_of_evaluate_gets_ids():
    pytest.importorskip("evaluate")
    data = data_of("accuracy", "'peftbench.tasks.evaluate_metrics:MCC'")
    rows = [Row(f"test:{i}", "", label) for i, label in enumerate(["sports", "health", "health", "politics"])]
    found = score(data, rows, ["sports", "health", None, "sports"])
    from peftbench.tasks.problems.classification import mcc

    assert found["MCC"] == pytest.approx(100 * mcc([0, 1, 1, 2], [0, 1, -1, 0]))


def content_of(metric):
    return content({"task": {"metrics": ["accuracy", metric]}})


def test_the_hash_of_the_code_is_in_the_config_and_its_place_is_not_in_the_id(file, tmp_path):
    named = fingerprint(f"{file}:saved")
    other = tmp_path / "b" / "own.py"
    other.parent.mkdir()
    other.write_text(CODE)
    elsewhere = fingerprint(f"{other}:saved")
    assert named != elsewhere
    assert content_of(named) == content_of(elsewhere)
    assert fingerprint(named) == named
    file.write_text(CODE + "\n")
    assert content_of(fingerprint(f"{file}:saved")) != content_of(named)
    with pytest.raises(UsageError, match="was edited since this run began"):
        fingerprint(named)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("none.py:saved", "no such file"),
        ("nowhere_at_all:saved", "there is no module nowhere_at_all"),
        ("own.py:not_a_function", "is no metric"),
        ("own.py:svaed", "has no `svaed`"),
    ],
)
def test_what_is_no_metric_is_refused_before_anything_is_loaded(file, monkeypatch, metric, words):
    monkeypatch.chdir(file.parent)
    with pytest.raises(UsageError, match=words):
        data_of(f"'{metric}'")


@pytest.mark.parametrize(("name", "words"), [("fails", "ValueError: no"), ("nothing", "gives nan")])
def test_a_metric_that_fails_is_named(file, name, words):
    data = data_of(f"'{file}:{name}'")
    with pytest.raises(UsageError, match=words):
        score(data, [Row("test:0", "", "sports")], ["sports"])
