"""What is test and dev, of which kinds of targets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from made_up_tasks import ids, protocol, rows, task

from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.protocols import draw
from peftbench.tasks.protocols.samplers import torch_randperm
from peftbench.tasks.protocols.splits import count_tokens

# what is test


def test_dev_is_test_where_test_has_no_labels():
    data = task(test=[])
    drawn = draw(data, protocol("lm_bff"), 5)
    assert ids(drawn.test) == ids(data.dev)
    assert all(row.id.startswith("train:") for row in drawn.dev)
    assert any("official dev" in note for note in drawn.notes)


def test_no_labelled_test_at_all():
    with pytest.raises(UsageError, match="no labelled test rows"):
        draw(task(test=[], dev=[]), protocol("default"), 5)
    with pytest.raises(UsageError, match=r"protocol.heldout=dev_as_test"):
        draw(task(test=[]), protocol("masakhanews"), 5)


def test_dept_halves_dev_of_a_small_task():
    data = task(test=[])
    drawn = draw(data, protocol("dept_total"), 16)
    order = torch_randperm(24, 42)
    assert ids(drawn.dev) == [data.dev[i].id for i in order[:12]]
    assert ids(drawn.test) == [data.dev[i].id for i in order[12:]]


def test_dept_takes_dev_from_a_large_train():
    train = [Row(f"train:{i}", f"t{i}", "abc"[i % 3]) for i in range(10_000)]
    data = task(train=train, test=[])
    drawn = draw(data, protocol("dept_total"), 16)
    assert len(drawn.dev) == 1000
    assert all(row.id.startswith("train:") for row in drawn.dev)
    assert not set(ids(drawn.dev)) & set(ids(drawn.train))
    assert ids(drawn.test) == ids(data.dev)


def test_dept_halves_a_dev_that_stands_in_for_test():
    """SuperGLUE: its adapter hands the official dev over as test, with FewGLUE's 32 dev rows or without any."""
    few = rows("dev", {"a": 2, "b": 2})
    for dev in ([], few):
        data = task(dev=dev, test_is_dev=True)
        drawn = draw(data, protocol("dept_total"), "full")
        order = torch_randperm(60, 42)
        assert ids(drawn.dev) == [data.test[i].id for i in order[:30]]
        assert ids(drawn.test) == [data.test[i].id for i in order[30:]]
        assert ids(drawn.train) == ids(data.train)
        assert any("4 rows of a few-shot dev set are not used" in note for note in drawn.notes) == bool(dev)


def test_the_yaml_says_how_dept_holds_out():
    data = task(test=[], held_out="mismatched", extra_tests={"mismatched": rows("mismatched", {"a": 4, "b": 4})})
    drawn = draw(data, protocol("dept_total"), 6)
    assert ids(drawn.dev) == ids(data.extra_tests["mismatched"])
    assert (ids(drawn.test), dict(drawn.extra_tests)) == (ids(data.dev), {})
    with pytest.raises(UsageError, match="mismatched set for dev, and that file is missing"):
        draw(replace(data, extra_tests={}), protocol("dept_total"), 6)
    large = [Row(f"train:{i}", f"t{i}", "abc"[i % 3]) for i in range(1500)]
    drawn = draw(task(train=large, test=[], held_out="train"), protocol("dept_total"), 6)
    assert (len(drawn.dev), len(drawn.test)) == (1000, 24)


def test_dept_is_refused_where_it_is_not_defined():
    with pytest.raises(UsageError, match="halve_dev is not defined for a task with a labelled test and no dev split"):
        draw(task(dev=[]), protocol("dept_total"), 6)


SUPERGLUE_HALVES = {"boolq": 1635, "cb": 28, "copa": 50, "multirc": 2424, "rte": 138, "wic": 319, "wsc": 52}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("subset", "half"), SUPERGLUE_HALVES.items())
def test_dept_halves_of_superglue_have_the_released_sizes(task_config, real_data, subset, half):
    from peftbench.tasks import load_task

    data = load_task(task_config("superglue", f"task.subset={subset}"), real_data)
    drawn = draw(data, protocol("dept_total", drop_overlap=False), "full")
    assert (len(drawn.dev), len(drawn.test)) == (half, len(data.test) - half)
    assert not set(ids(drawn.dev)) & set(ids(drawn.test))
    assert ids(drawn.train) == ids(data.train)


def test_a_task_with_labelled_test_is_not_halved():
    data = task()
    drawn = draw(data, protocol("dept_total"), 6)
    assert (ids(drawn.test), ids(drawn.dev)) == (ids(data.test), ids(data.dev))


def test_min_tokens_leaves_short_rows_out_of_test_too():
    short = [Row(f"test:{100 + i}", "a title", "a") for i in range(5)]
    data = task()
    drawn = draw(replace(data, test=[*data.test, *short]), protocol("sciprompt"), 5)
    assert ids(drawn.test) == ids(data.test)
    assert any(note.startswith("test: 5 of 65 rows left out") for note in drawn.notes)
    assert count_tokens(Row("x", "Low-rank adapters, (2021).", None), 30) == 11
    assert count_tokens(Row("x", "word " * 99, None), 30) == 30
    titles = [Row(f"train:{i}", f"title {i}", "abc"[i % 3]) for i in range(60)]
    with pytest.raises(UsageError, match=r"protocol.min_tokens=0"):
        draw(replace(data, train=titles), protocol("sciprompt"), 5)


# regression and tuples


def scored(n: int = 40) -> TaskData:
    train = [Row(f"train:{i}", f"t{i}", float(i % 6)) for i in range(n)]
    dev = [Row(f"dev:{i}", f"d{i}", float(i % 6)) for i in range(30)]
    return task(train=train, dev=dev, test=[], labels=(), problem="regression", score_range=(0.0, 5.0))


@pytest.mark.parametrize("name", ["default", "lm_bff", "masakhanews", "sciprompt"])
def test_regression_is_drawn_by_halves_of_the_range(name):
    drawn = draw(scored(), protocol(name, heldout="dev_as_test", min_tokens=0), 4)
    assert Counter(row.target < 2.5 for row in drawn.train) == {True: 4, False: 4}


def test_a_score_on_the_cut():
    data = task(
        train=[Row(f"train:{i}", f"t{i}", s) for i, s in enumerate([0.0] * 8 + [2.5] * 8)],
        dev=[], test=[Row("test:0", "x", 1.0)], labels=(), problem="regression", score_range=(0.0, 5.0),
    )  # fmt: skip
    assert Counter(r.target for r in draw(data, protocol("lm_bff"), 4).train) == {0.0: 4, 2.5: 4}
    with pytest.raises(UsageError, match=r"scores above 2.5"):
        draw(data, protocol("dept_total", heldout="official"), 4)


def test_tuples_are_counted_by_row():
    train = [Row(f"train:{i}", f"t{i}", (("food", "POS"),)) for i in range(20)]
    data = task(train=train, dev=[], labels=(), problem="tuples", test=[Row("test:0", "x", ())])
    assert len(draw(data, protocol("default"), 7).train) == 7
