"""What every protocol promises, and the default one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_tasks import NAMES, counts, ids, protocol, rows, shots_of, task

from peftbench.config.schema import ProtocolConfig
from peftbench.errors import UsageError
from peftbench.tasks.base import Row
from peftbench.tasks.protocols import draw
from peftbench.tasks.protocols.samplers import hashed_permutation

# what every protocol promises


@pytest.mark.parametrize("name", NAMES)
def test_yaml_names_itself_has_every_key_and_opens_with_its_command(name):
    text = (files("peftbench.conf") / "protocol" / f"{name}.yaml").read_text("utf-8")
    section = yaml.safe_load(text)
    assert section["name"] == name
    assert {*section, "noise", "test_rows"} == {
        f.name for f in dataclasses.fields(ProtocolConfig)
    }  # which config.yaml has for all
    assert text.startswith("# peftbench ")
    assert f"protocol={name}" in text.splitlines()[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_draw_the_same_rows_and_another_seed_others(name):
    one, two = (draw(task(), protocol(name), shots_of(name), data_seed=7) for _ in range(2))
    assert one == two
    assert one.sha256() == two.sha256()
    other = draw(task(), protocol(name), shots_of(name), data_seed=8)
    assert (other.sha256() == one.sha256()) == (name == "full")


def test_draws_do_not_touch_the_global_generator():
    np.random.seed(5)
    expected = np.random.RandomState(5).rand()
    for name in NAMES:
        draw(task(), protocol(name), shots_of(name))
    assert np.random.rand() == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_does_not_depend_on_test_labels(name):
    data = task()
    blind = replace(data, test=[replace(row, target="a") for row in data.test])
    assert draw(data, protocol(name), shots_of(name)).sha256() == draw(blind, protocol(name), shots_of(name)).sha256()


def test_a_bounded_test_set_is_the_same_for_every_draw_and_moves_no_other_row():
    grouped = [replace(row, group=str(number // 3)) for number, row in enumerate(task().test)]
    whole, some, other = (
        draw(task(test=grouped), protocol("default", **changes), 9, data_seed=seed)
        for changes, seed in (({}, 1), ({"test_rows": 10}, 1), ({"test_rows": 10}, 2))
    )
    assert ids(some.test) == ids(other.test)
    assert len(some.test) == 12  # the fourth group is whole
    assert set(ids(some.test)) < set(ids(whole.test))
    assert (some.train, some.dev) == (whole.train, whole.dev)
    assert "test: 12 of 60 rows, always the same ones (protocol.test_rows)" in some.notes
    assert ids(draw(task(test=grouped), protocol("default", test_rows=60), 9).test) == ids(whole.test)


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_and_the_pool_has_no_labels(name):
    data = task(unlabeled=[Row("unlabeled:0", "x", None)])
    drawn = draw(data, protocol(name), shots_of(name))
    parts = [ids(drawn.train), ids(drawn.dev), ids(drawn.test), ids(drawn.unlabeled)]
    assert len({i for part in parts for i in part}) == sum(map(len, parts))
    assert all(row.target is None for row in drawn.unlabeled)
    assert "unlabeled:0" in ids(drawn.unlabeled)
    in_train = {i for part in (parts[0], parts[1], parts[3]) for i in part if i.startswith("train")}
    assert in_train == set(ids(data.train))  # every train row is drawn or unlabelled: nothing overlaps here


@pytest.mark.parametrize("name", NAMES)
def test_zero_shots(name):
    drawn = draw(task(), protocol(name), 0)
    assert (drawn.train, drawn.dev, drawn.select) == ((), (), "last")
    assert len(drawn.test) == 60


@pytest.mark.parametrize("name", NAMES)
def test_full_takes_every_train_row_that_is_not_dev(name):
    data = task()
    drawn = draw(data, protocol(name), "full")
    assert set(ids(drawn.train)) == set(ids(data.train)) - set(ids(drawn.dev))
    assert drawn.unit == "all"


@pytest.mark.parametrize("shots", [-1, 1.5, "ten", "10", True, None])
def test_impossible_shots_are_refused(shots):
    with pytest.raises(UsageError, match=r"^shots="):
        draw(task(), protocol("default"), shots)


def test_the_full_protocol_refuses_k():
    with pytest.raises(UsageError, match=r"shots=10.*shots=full"):
        draw(task(), protocol("full"), 10)


def test_seed_of_the_draw():
    assert draw(task(), protocol("default"), 3, seed=5).data_seed == 42
    assert draw(task(), protocol("sciprompt"), 3, seed=5).data_seed == 144
    assert draw(task(), protocol("lm_bff"), 3, seed=5).data_seed == 5
    assert draw(task(), protocol("lm_bff"), 3, data_seed=9, seed=5).data_seed == 9
    assert draw(task(), protocol("default"), 3, data_seed=0).data_seed == 0


def test_written_form():
    drawn = draw(task(), protocol("default"), 4, data_seed=3)
    plain = json.loads(json.dumps(drawn.to_dict()))
    assert plain["sha256"] == drawn.sha256()
    assert plain["ids"]["train"] == ids(drawn.train)
    assert plain["counts"]["train"] == {"a": 4, "b": 4, "c": 4}
    assert plain["rows"] == {"train": 12, "dev": 15, "test": 60}
    assert plain["overlap"] == {"train_test": 0, "train_dev": 0, "dev_test": 0, "dropped": 0}


def test_hash_is_of_the_rows_not_of_their_order_and_of_protocol_and_version():
    drawn = draw(task(), protocol("default"), 4)
    assert replace(drawn, train=drawn.train[::-1]).sha256() == drawn.sha256()
    assert replace(drawn, train=drawn.train[1:]).sha256() != drawn.sha256()
    assert replace(drawn, version=2).sha256() != drawn.sha256()
    assert replace(drawn, train=drawn.dev, dev=drawn.train).sha256() != drawn.sha256()


# the default protocol


def test_default_shares():
    drawn = draw(task(), protocol("default"), 10)
    assert counts(drawn.train) == {"a": 10, "b": 10, "c": 10}
    assert counts(drawn.dev) == {"a": 5, "b": 5, "c": 5}
    assert all(row.id.startswith("dev:") for row in drawn.dev)
    assert (drawn.select, drawn.unit, drawn.notes) == ("best", "per_class", ())


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(16, 40)] * 3),
    k=st.integers(1, 10),
    more=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 1),
    with_dev=st.booleans(),
)
def test_default_is_nested_in_k_and_dev_stays(sizes, k, more, seed, with_dev):
    data = task(train=rows("train", dict(zip("abc", sizes, strict=True))), dev=None if with_dev else [])
    small = draw(data, protocol("default"), k, data_seed=seed)
    large = draw(data, protocol("default"), k + more, data_seed=seed)
    assert set(ids(small.train)) <= set(ids(large.train))
    assert ids(small.dev) == ids(large.dev)
    assert counts(small.dev) == {"a": 5, "b": 5, "c": 5}


def test_default_rows_of_a_class_do_not_depend_on_other_classes():
    train = rows("train", {"a": 30, "b": 30, "c": 30})
    without_c = [row for row in train if row.target != "c"]
    one = draw(task(train=train), protocol("default"), 5)
    two = draw(task(train=without_c, labels=("a", "b")), protocol("default"), 5)
    assert [r for r in ids(one.train) if r in ids(without_c)] == ids(two.train)


def test_default_draw_is_pinned():
    """The same command draws the same rows on any machine: these were drawn when the protocol was written."""
    assert hashed_permutation(8, 42, "sports") == [7, 0, 4, 6, 2, 5, 3, 1]
    assert ids(draw(task(), protocol("default"), 2).train) == PINNED_DEFAULT


PINNED_DEFAULT = ["train:72", "train:123", "train:67", "train:94", "train:178", "train:110"]
