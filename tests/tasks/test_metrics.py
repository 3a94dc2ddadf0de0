"""Scores against scikit-learn and scipy, with invalid predictions, and as `evaluate` modules."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from peftbench.errors import UsageError
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.metrics import score
from peftbench.tasks.problems import classification

pytestmark = pytest.mark.filterwarnings("ignore:A single label")

LABELS = ("politics", "religion", "sports")
CLASSIFICATION = ("accuracy", "f1_macro", "f1_weighted", "f1_binary", "mcc", "exact_match_group")
label = st.sampled_from(LABELS)
guess = st.sampled_from([*LABELS, None, "weather"])


def task(labels=LABELS, names=CLASSIFICATION, problem="classification", score_range=None) -> TaskData:
    return TaskData(
        name="t", subset="s", train=(), dev=(), test=(), labels=labels, label_words={}, fields=("text", "pair"),
        problem=problem, main_metric=names[0], metrics=names, source=DataSource("packaged", "here"),
        score_range=score_range,
    )  # fmt: skip


def rows(targets, groups=None) -> list[Row]:
    return [Row(f"test:{i}", "x", t, group=groups[i] if groups else None) for i, t in enumerate(targets)]


def classified(targets, predicted, labels=LABELS, groups=None) -> dict[str, float]:
    return score(task(labels), rows(targets, groups), predicted)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(label, label), min_size=1, max_size=60))
def test_valid_predictions_score_as_in_scikit_learn(pairs):
    truth, predicted = map(list, zip(*pairs, strict=True))
    scores = classified(truth, predicted)
    assert scores["accuracy"] == pytest.approx(100 * accuracy_score(truth, predicted))
    assert scores["f1_macro"] == 100 * f1_score(truth, predicted, average="macro", zero_division=0)
    assert scores["f1_weighted"] == 100 * f1_score(truth, predicted, average="weighted", zero_division=0)
    assert scores["mcc"] == 100 * matthews_corrcoef(truth, predicted)
    binary = f1_score([t == "sports" for t in truth], [p == "sports" for p in predicted], zero_division=0)
    assert scores["f1_binary"] == 100 * binary
    assert scores["exact_match_group"] == scores["accuracy"]  # no row has a group


def test_the_numbers_are_scikit_learns_to_the_last_bit_also_over_many_classes():
    rng = np.random.default_rng(3)
    for classes in (2, 7, 77):
        truth = rng.integers(0, classes, 1000)
        guess = np.where(rng.random(1000) < 0.6, truth, rng.integers(-1, classes, 1000))
        present = sorted({*truth, *guess} - {-1})
        for average, ours in (("macro", classification.f1_macro), ("weighted", classification.f1_weighted)):
            assert ours(truth.tolist(), guess.tolist()) == f1_score(truth, guess, labels=present, average=average)
        assert classification.mcc(truth.tolist(), guess.tolist()) == matthews_corrcoef(truth, guess)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(label, guess), min_size=1, max_size=60))
def test_invalid_predictions_are_wrong_and_of_no_class(pairs):
    truth, predicted = map(list, zip(*pairs, strict=True))
    scores = classified(truth, predicted)
    valid = [p if p in LABELS else "invalid" for p in predicted]
    present = [name for name in LABELS if name in truth or name in valid]
    close = pytest.approx
    assert scores["accuracy"] == close(100 * accuracy_score(truth, valid))
    for average in ("macro", "weighted"):
        expected = f1_score(truth, valid, labels=present, average=average, zero_division=0)
        assert scores[f"f1_{average}"] == close(100 * expected)
    assert scores["mcc"] == close(100 * matthews_corrcoef(truth, valid))
    assert all(math.isfinite(value) for value in scores.values())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(label, guess), min_size=2, max_size=30), st.data())
def test_an_invalid_prediction_never_scores_better_than_a_right_one(pairs, data):
    truth, predicted = map(list, zip(*pairs, strict=True))
    i = data.draw(st.integers(0, len(truth) - 1))
    right = classified(truth, [*predicted[:i], truth[i], *predicted[i + 1 :]])
    invalid = classified(truth, [*predicted[:i], None, *predicted[i + 1 :]])
    for name in ("accuracy", "f1_weighted", "f1_binary", "exact_match_group"):
        assert invalid[name] <= right[name] + 1e-9, name


def test_figures_by_hand():
    truth = ["politics", "politics", "religion", "sports"]
    predicted = ["politics", None, "sports", "sports"]
    scores = classified(truth, predicted)
    assert scores["accuracy"] == 50
    # politics: precision 1, recall 1/2; religion: never found; sports: precision 1/2, recall 1
    assert scores["f1_macro"] == pytest.approx(100 * (2 / 3 + 0 + 2 / 3) / 3)
    assert scores["f1_weighted"] == pytest.approx(100 * (2 * 2 / 3 + 0 + 2 / 3) / 4)


def test_a_class_without_rows_counts_in_macro_only_if_it_is_predicted():
    assert classified(["politics", "sports"], ["politics", "sports"])["f1_macro"] == 100
    scores = classified(["politics", "sports"], ["politics", "religion"])
    assert scores["f1_macro"] == pytest.approx(100 / 3)
    assert scores["f1_weighted"] == pytest.approx(50)


def test_an_invalid_prediction_of_a_negative_row_costs_binary_f1():
    labels = ("no", "yes")
    assert classified(["yes", "no"], ["yes", "no"], labels)["f1_binary"] == 100
    assert classified(["yes", "no"], ["yes", None], labels)["f1_binary"] == pytest.approx(200 / 3)
    assert classified(["yes", "no"], [None, "no"], labels)["f1_binary"] == 0


def test_all_invalid_is_zero():
    assert set(classified(list(LABELS), [None] * 3).values()) == {0}


def test_exact_match_counts_a_group_only_if_all_its_rows_are_right():
    scores = classified(["no", "yes", "no", "yes"], ["no", "yes", "no", "no"], ("no", "yes"), ["q1", "q1", "q2", "q2"])
    assert scores["exact_match_group"] == 50
    assert scores["accuracy"] == 75


def test_the_leaderboards_columns_are_always_there():
    scores = score(task(names=("mcc",)), rows(["sports", "politics"]), ["sports", "sports"])
    assert set(scores) == {"mcc", "f1_macro", "f1_weighted", "accuracy"}
    assert next(iter(scores)) == "mcc"


finite = st.floats(0, 5, allow_nan=False).map(lambda x: round(x, 2))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=50))
def test_correlations_are_those_of_scipy(pairs):
    truth, predicted = map(list, zip(*pairs, strict=True))
    scores = score(regression(), rows(truth), predicted)
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        constant = len(set(truth)) == 1 or len(set(predicted)) == 1
        expected = 0.0 if constant else function(truth, predicted).statistic
        assert scores[name] == pytest.approx(100 * expected, abs=1e-6)


def regression() -> TaskData:
    return task((), ("pearson", "spearman"), "regression", (0.0, 5.0))


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_an_invalid_score_counts_as_the_far_end_of_the_range(bad):
    truth = [0.0, 1.0, 4.0, 5.0]
    scores = score(regression(), rows(truth), [bad, 1.0, bad, 5.0])
    assert scores == score(regression(), rows(truth), [5.0, 1.0, 0.0, 5.0])
    assert scores["pearson"] < score(regression(), rows(truth), [0.0, 1.0, 4.0, 5.0])["pearson"]


def test_a_constant_score_is_zero_without_a_warning(recwarn):
    assert score(regression(), rows([1.0, 2.0, 3.0]), [2.5] * 3) == {"pearson": 0.0, "spearman": 0.0}
    assert not recwarn.list


def test_tuples_are_matched_whole():
    data = task((), ("f1_tuples",), "tuples")
    truth = rows([(("food", "POS"), ("wine", "NEG")), ()])
    assert score(data, truth, [(("food", "POS"), ("wine", "POS")), ()])["f1_tuples"] == 50
    assert score(data, truth, [None, None])["f1_tuples"] == 0
    assert score(data, truth, [(("food", "POS"),) * 3, ()])["f1_tuples"] == pytest.approx(200 / 3)


def test_wrong_use():
    with pytest.raises(ValueError, match="1 predictions for 2 rows"):
        score(task(), rows(["sports", "sports"]), ["sports"])
    with pytest.raises(ValueError, match="0 rows"):
        score(task(), [], [])
    with pytest.raises(TypeError, match="label name"):
        score(task(), rows(["politics"]), [0])  # an id, not a name
    with pytest.raises(TypeError, match="number"):
        score(regression(), rows([1.0, 2.0]), ["1.0", 2.0])
    with pytest.raises(UsageError, match=r"no metric `f1_wieghted`.*Did you mean `f1_weighted`"):
        score(task(names=("f1_wieghted",)), rows(["sports"]), ["sports"])
    with pytest.raises(UsageError, match="no metric `pearson` for a classification task"):
        score(task(names=("pearson",)), rows(["sports"]), ["sports"])


def test_as_evaluate_modules_alone_and_combined(tmp_path):
    evaluate = pytest.importorskip("evaluate")
    from peftbench.tasks.evaluate_metrics import MODULES

    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, 200).tolist(), rng.integers(-1, 3, 200).tolist()
    groups = rng.integers(0, 50, 200).tolist()
    modules = {name: module(cache_dir=str(tmp_path)) for name, module in MODULES.items()}
    combined = evaluate.combine([modules[name] for name in CLASSIFICATION])
    result = combined.compute(references=truth, predictions=predicted, groups=groups, positive=2)
    assert result == {
        "accuracy": classification.accuracy(truth, predicted),
        "f1_macro": classification.f1_macro(truth, predicted),
        "f1_weighted": classification.f1_weighted(truth, predicted),
        "f1_binary": classification.f1_binary(truth, predicted, positive=2),
        "mcc": classification.mcc(truth, predicted),
        "exact_match_group": classification.exact_match_group(truth, predicted, groups),
    }
    names = [*LABELS, None]  # -1 is the last
    scores = classified([names[i] for i in truth], [names[i] for i in predicted], groups=[str(g) for g in groups])
    assert {name: 100 * value for name, value in result.items()} == pytest.approx(scores)

    modules["accuracy"].add_batch(references=truth[:90], predictions=predicted[:90])
    modules["accuracy"].add_batch(references=truth[90:], predictions=predicted[90:])
    assert modules["accuracy"].compute() == {"accuracy": classification.accuracy(truth, predicted)}
    x, y = rng.normal(size=50), rng.normal(size=50)
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        value = modules[name].compute(references=x, predictions=y)[name]
        assert value == pytest.approx(function(x, y).statistic)


def test_importing_and_drawing_and_scoring_need_neither_evaluate_nor_torch():
    code = (
        "import sys, peftbench.tasks.metrics, peftbench.tasks.protocols\n"
        "import peftbench.tasks.problems.classification as m\n"
        "heavy = {'evaluate', 'datasets', 'torch', 'pandas', 'transformers'}\n"
        "assert not heavy & set(sys.modules) and 'sklearn' not in sys.modules and 'scipy' not in sys.modules\n"
        "m.f1_weighted([0, 1], [0, 1]), m.mcc([0, 1], [0, 1])\n"
        "assert not {*heavy, 'sklearn', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
