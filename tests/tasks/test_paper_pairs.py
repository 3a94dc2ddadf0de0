"""Paper pairs: split by paper, balanced tests, retrieval rows; and the metrics of `similarity`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, ndcg_score, roc_auc_score

from peftbench.errors import UsageError
from peftbench.statistics.samples import item_resamples
from peftbench.statistics.scorers import Items, scorer
from peftbench.tasks import load_task
from peftbench.tasks.base import Row
from peftbench.tasks.metrics import score
from peftbench.tasks.paper_pairs import retrieval, split_of


def write(folder: Path, papers: int = 60, **bad) -> Path:
    """A collection: papers in a row, neighbours are cited together, in the domains by turns."""
    home = folder / "more/sciembed/acm_cr"
    home.mkdir(parents=True)
    names = [f"10/{i:03}" for i in range(papers)]
    docs = [{"doi": doi, "title": f"Title {doi}", "abstract": f"About {doi}"} for doi in names]
    pairs = [{"a": doi, "b": names[(i + step) % papers], "label": int(step < 9), "domain": ("sigir", "wsdm")[i % 2]}
             for step in (1, 2, 3, 4, 5, 6, 11, 12, 13, 14) for i, doi in enumerate(names)]  # fmt: skip
    pairs[3] |= bad
    for name, records in (("docs", docs), ("cocitation_pairs", pairs + pairs[:1])):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return folder


def test_no_paper_of_test_is_in_train_and_tests_are_balanced(task_config, tmp_path) -> None:
    data = load_task(task_config("paper_pairs"), write(tmp_path))
    papers = {split: {t for r in rows for t in (r.text, r.pair)} for split, rows in
              {"train": data.train, "dev": data.dev, "test": data.test}.items()}  # fmt: skip
    assert papers["train"]
    assert papers["test"]
    assert not (papers["train"] & papers["test"]) | (papers["train"] & papers["dev"]) | (papers["dev"] & papers["test"])
    kinds = Counter((row.domain, row.target) for row in data.test)
    assert kinds["sigir", 1.0] == kinds["sigir", 0.0] > 0
    assert data.domains == ("sigir", "wsdm", "chiir")
    assert {row.domain for row in data.extra_tests["wsdm"]} == {"wsdm"}
    (note,) = data.notes
    assert note.endswith("pairs have papers of two splits and are left out")


def test_split_is_fixed_and_has_its_shares() -> None:
    where = split_of({str(i): "" for i in range(100)})
    assert Counter(where.values()) == {"train": 60, "test": 30, "dev": 10}
    assert where == split_of({str(i): "" for i in reversed(range(100))})


def test_a_query_meets_every_other_paper_of_its_domain(task_config, tmp_path) -> None:
    data = load_task(task_config("paper_pairs"), write(tmp_path))
    rows = data.extra_tests["retrieval"]
    for query, group in {r.group: [s for s in rows if s.group == r.group] for r in rows}.items():
        assert any(row.target == 1 for row in group)
        assert len({row.pair for row in group} | {group[0].text}) == len(group) + 1
        assert {row.domain for row in group} == {query.partition("/")[0]}
    assert data.extra_metrics == {"retrieval": ("recall_at_10", "ndcg_at_10")}
    assert retrieval([], {}) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [({"label": 2}, "line 4: the label is 2, not 0 or 1"), ({"a": "none"}, "line 4: the paper `none` has no text"),
     ({"domain": 3}, "line 4: `domain` has to be text")],
)  # fmt: skip
def test_bad_pairs_are_named_by_line(task_config, tmp_path, bad, told) -> None:
    with pytest.raises(UsageError, match=told):
        load_task(task_config("paper_pairs"), write(tmp_path, **bad))


@pytest.mark.data
def test_real_counts(task_config, real_data) -> None:
    data = load_task(task_config("paper_pairs"), real_data)
    assert (len(data.train), len(data.dev), len(data.test)) == (1571, 44, 338)
    assert len({row.group for row in data.extra_tests["retrieval"]}) == 126


@pytest.fixture(scope="module")
def answered() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    truth = np.array([0.0, 1.0] * 30)
    return truth, np.round(truth * 0.3 + random.normal(size=60), 1)  # rounded: some scores are equal


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    from peftbench.tasks.base import DataSource, TaskData

    metrics = ("roc_auc", "f1_max", "cosine_ratio", "recall_at_10", "ndcg_at_10")
    return TaskData("t", "s", (), (), (), (), {}, ("text", "pair"), "similarity", "roc_auc", metrics,
                    DataSource("packaged", ""))  # fmt: skip


def rows_of(truth, groups=None) -> list[Row]:
    return [Row(f"test:{i}", "a", t, pair="b", group=groups[i] if groups else None) for i, t in enumerate(truth)]


def test_metrics_are_scikit_learns(task, answered) -> None:
    truth, guess = answered
    found = score(task, rows_of(truth), guess.tolist())
    best = max(f1_score(truth, guess >= threshold) for threshold in guess)
    assert found["f1_max"] == pytest.approx(100 * best)
    assert found["roc_auc"] == pytest.approx(100 * roc_auc_score(truth, guess))
    assert found["cosine_ratio"] == pytest.approx(100 * guess[1::2].mean() / guess[::2].mean())


def test_scores_that_say_nothing_have_the_floors(task, answered) -> None:
    truth = answered[0]
    found = score(task, rows_of(truth), [0.5] * 60)
    assert found["f1_max"] == pytest.approx(200 / 3)
    assert (found["roc_auc"], found["cosine_ratio"]) == (50.0, 100.0)
    random = np.random.RandomState(1).normal(size=(20, 60))
    assert all(score(task, rows_of(truth), list(scores))["f1_max"] > 66.666 for scores in random.tolist())


def test_ranking_is_by_query(task) -> None:
    """Two queries of 20 results; the second has one right result, in the eleventh place."""
    truth = [1.0, 0.0, 1.0] + [0.0] * 17 + [0.0] * 10 + [1.0] + [0.0] * 9
    guess = list(range(20, 0, -1)) * 2
    groups = ["q1"] * 20 + ["q2"] * 20
    found = score(task, rows_of(truth, groups), guess, ("recall_at_10", "ndcg_at_10"))
    first = ndcg_score([truth[:20]], [guess[:20]], k=10)
    assert found == {"recall_at_10": 50.0, "ndcg_at_10": pytest.approx(50 * first)}


@pytest.mark.parametrize("metric", ["roc_auc", "f1_max", "cosine_ratio", "recall_at_10", "ndcg_at_10"])
def test_resampled_rows_are_scored_alike(task, answered, metric) -> None:
    truth, guess = answered
    ranks = metric.endswith("10")
    groups = [f"q{i // 15}" for i in range(60)] if ranks else None
    rows = rows_of(truth, groups)
    made = scorer(
        metric, Items(tuple(truth), (), "similarity", (0.0, 1.0), tuple(groups) if groups else None), list(guess)
    )
    assert made.score() == pytest.approx(score(task, rows, list(guess), (metric,))[metric], abs=1e-4)
    chosen = item_resamples("x", 4 if ranks else 60)
    drawn = made.resampled(replace(chosen, chosen=chosen.chosen[:3]))
    for units, value in zip(chosen.chosen[:3], drawn, strict=True):
        places = [i for n, u in enumerate(units) for i in (range(15 * u, 15 * u + 15) if ranks else [u])]
        again = rows_of(truth[places], [f"q{n}" for n in range(4) for _ in range(15)] if ranks else None)
        assert value == pytest.approx(score(task, again, list(guess[places]), (metric,))[metric], abs=1e-4)
