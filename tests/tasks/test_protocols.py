"""Few-shot draws: what every protocol promises, and that the papers' samplers give the papers' rows."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.config.schema import ProtocolConfig
from peftbench.config.sections import build
from peftbench.errors import UsageError
from peftbench.tasks.base import DataSource, Row, TaskData, text_key
from peftbench.tasks.protocols import draw
from peftbench.tasks.protocols.samplers import SAMPLERS, hashed_permutation, torch_randperm, walk
from peftbench.tasks.protocols.splits import count_tokens, tenth

NAMES = ["default", "masakhanews", "lm_bff", "clues_total", "dept_total", "sciprompt", "full"]
FEW = [name for name in NAMES if name != "full"]


def protocol(name: str, **changes) -> ProtocolConfig:
    section = yaml.safe_load((files("peftbench.conf") / "protocol" / f"{name}.yaml").read_text("utf-8"))
    return build(ProtocolConfig, {**section, **changes}, "protocol")


def rows(split: str, counts: dict, words: int = 30) -> list[Row]:
    """Rows of the given labels, interleaved, each text its own and `words` words long."""
    left, out = dict(counts), []
    while any(left.values()):
        for label in counts:
            if left[label]:
                left[label] -= 1
                out.append(Row(f"{split}:{len(out)}", f"{split} {label} {left[label]}" + " word" * words, label))
    return out


def task(train=None, dev=None, test=None, **values) -> TaskData:
    train = rows("train", {"a": 60, "b": 50, "c": 70}) if train is None else train
    dev = rows("dev", {"a": 9, "b": 8, "c": 7}) if dev is None else dev
    test = rows("test", {"a": 20, "b": 20, "c": 20}) if test is None else test
    fixed = {
        "name": "t", "subset": "s", "labels": ("a", "b", "c"), "label_words": {}, "fields": ("text", "pair"),
        "problem": "classification", "main_metric": "accuracy", "metrics": ("accuracy",),
        "source": DataSource("packaged", "here"),
    }  # fmt: skip
    return TaskData(train=train, dev=dev, test=test, **{**fixed, **values})


def ids(split) -> list[str]:
    return [row.id for row in split]


def counts(split) -> dict:
    return dict(Counter(row.target for row in split))


def shots_of(name: str) -> int | str:
    return "full" if name == "full" else 9


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


# overlap, duplicates, groups


def overlapping() -> TaskData:
    """Test holds two train texts and a dev text, dev one train text; white space and case differ."""
    data = task()
    noise = lambda row: "  " + row.text.upper().replace(" ", "\u00a0\n")  # noqa: E731
    test = [*data.test, *(Row(f"test:{60 + i}", noise(data.train[i]), "a") for i in (0, 3))]
    test.append(Row("test:99", noise(data.dev[0]), "b"))
    dev = [*data.dev, Row("dev:99", noise(data.train[1]), "b")]
    return replace(data, test=test, dev=dev)


@pytest.mark.parametrize("name", NAMES)
def test_overlap_is_counted_on_the_full_splits_and_kept_out(name):
    data = overlapping()
    drawn = draw(data, protocol(name, on_shortage="all"), "full" if name == "full" else 45, data_seed=1)
    assert {k: v for k, v in drawn.overlap.items() if k != "dropped"} == {
        "train_test": 2,
        "train_dev": 1,
        "dev_test": 1,
    }
    train, dev, test = ({text_key(row) for row in split} for split in (drawn.train, drawn.dev, drawn.test))
    assert not train & test
    assert not dev & test
    assert not train & dev
    assert not {text_key(row) for row in drawn.unlabeled} & test
    assert drawn.overlap["dropped"] >= 3  # two train rows and a dev row stand in test


def test_a_train_row_in_an_extra_test_set_is_overlap():
    data = task()
    data = replace(data, extra_tests={"other": [replace(data.train[0], id="other:0")]})
    drawn = draw(data, protocol("full"), "full")
    assert drawn.overlap["train_test"] == 1
    assert "train:0" not in ids(drawn.train)
    assert ids(drawn.extra_tests["other"]) == ["other:0"]


@pytest.mark.parametrize("name", ["masakhanews", "lm_bff", "sciprompt", "dept_total"])
def test_overlapping_rows_are_replaced_and_all_others_stay(name):
    data = task()
    plain = draw(data, protocol(name), 9, data_seed=1)
    leaked = replace(data, test=[*data.test, replace(plain.train[2], id="test:99")])
    kept = draw(leaked, protocol(name, drop_overlap=False), 9, data_seed=1)
    assert ids(kept.train) == ids(plain.train)
    assert kept.overlap["dropped"] == 0
    drawn = draw(leaked, protocol(name), 9, data_seed=1)
    assert len(set(ids(plain.train)) - set(ids(drawn.train))) == 1
    assert counts(drawn.train) == counts(plain.train)
    assert ids(drawn.dev) == ids(plain.dev)
    assert any(note.startswith("train: 1 of the sampler's") for note in drawn.notes)


CONFIGS = {name: protocol(name, on_shortage="all", min_tokens=0) for name in ("default", "lm_bff", "sciprompt", "full")}


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.integers(0, 12), min_size=40, max_size=40),
    groups=st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=40, max_size=40),
    name=st.sampled_from(sorted(CONFIGS)),
    seed=st.integers(0, 99),
)
def test_equal_texts_and_groups_never_straddle_train_and_dev(texts, groups, name, seed):
    train = [
        Row(f"train:{i}", f"t{texts[i]}", "ab"[i % 2], group=None if groups[i] is None else f"g{groups[i]}")
        for i in range(40)
    ]
    cfg = CONFIGS[name]
    data = task(train=train, dev=[], labels=("a", "b"))
    drawn = draw(data, cfg, "full" if name == "full" else 4, data_seed=seed)
    assert not {r.text for r in drawn.train} & {r.text for r in drawn.dev}
    assert not ({r.group for r in drawn.train} - {None}) & ({r.group for r in drawn.dev} - {None})


def test_a_tenth_keeps_groups_and_equal_texts_together():
    sentences = [Row(f"train:{i}", f"s{i // 3}", "a", pair=f"aspect {i}", group=f"g{i // 3}") for i in range(90)]
    rest, held = tenth(sentences, {row.id: text_key(row) for row in sentences})
    assert len(held) == 9
    assert not {r.group for r in rest} & {r.group for r in held}
    chain = [Row(f"train:{i}", f"s{(i + 1) // 2}", "a", group=f"g{i // 2}") for i in range(40)]
    rest, held = tenth(chain, {row.id: text_key(row) for row in chain})
    assert (len(rest), held) == (40, ())  # all linked: nothing can be held out
    same = [Row(f"train:{i}", f"s{i // 2}", "a") for i in range(100)]
    rest, held = tenth(same, {row.id: text_key(row) for row in same})
    assert not {r.text for r in rest} & {r.text for r in held}


def test_dev_is_halved_by_row_as_released():
    """MultiRC: the answers of a question may stand on both sides, so that the halves have 2424 rows each."""
    dev = [Row(f"dev:{i}", f"q{i}", "ab"[i % 2], group=f"g{i // 4}") for i in range(41)]
    drawn = draw(task(test=[], dev=dev, labels=("a", "b")), protocol("dept_total"), 4)
    assert (len(drawn.dev), len(drawn.test)) == (20, 21)


@pytest.mark.parametrize(
    ("one", "two"),
    [("Caf\u00e9  au\tlait", "CAFE\u0301 au lait"), (" a\u2028b ", "A B"), ("", "  ")],
)
def test_texts_that_count_as_equal(one, two):
    assert text_key(Row("x", one, None)) == text_key(Row("y", two, None))


def test_a_pair_is_equal_in_both_texts_only():
    assert text_key(Row("x", "a", None, pair="b")) != text_key(Row("y", "a", None, pair="c"))
    assert text_key(Row("x", "a b", None)) != text_key(Row("y", "a", None, pair="b"))


# shortage


def test_a_short_class_is_an_error_that_names_it_its_count_and_the_ways_out():
    with pytest.raises(UsageError) as caught:
        draw(task(), protocol("masakhanews"), 55)
    message = str(caught.value)
    for part in ("shots=55", "`b`", "50 of the 55", "shots=50", "on_shortage=all", "on_shortage=skip"):
        assert part in message
    assert "`a`" not in message


def test_a_class_without_rows_is_short():
    with pytest.raises(UsageError, match="class `c` has 0 of the 2 rows"):
        draw(task(train=rows("train", {"a": 9, "b": 9})), protocol("default"), 2)


def test_all_takes_what_is_there():
    drawn = draw(task(), protocol("masakhanews", on_shortage="all"), 55)
    assert counts(drawn.train) == {"a": 55, "b": 50, "c": 55}
    assert any("`b` has 50 of the 55" in note for note in drawn.notes)


def test_skip_leaves_the_class_out_of_training_only():
    drawn = draw(task(), protocol("masakhanews", on_shortage="skip"), 55)
    assert counts(drawn.train) == {"a": 55, "c": 55}
    assert counts(drawn.test) == {"a": 20, "b": 20, "c": 20}
    assert any("`b`" in note and "left out of training" in note for note in drawn.notes)
    with pytest.raises(UsageError, match="no class"):
        draw(task(), protocol("masakhanews", on_shortage="skip"), 500)


def test_overlapping_rows_do_not_count_as_there():
    data = task()
    leaked = [replace(row, id=f"test:{100 + i}") for i, row in enumerate(data.train) if row.target == "b"][:3]
    with pytest.raises(UsageError, match="`b` has 47 of the 48"):
        draw(replace(data, test=[*data.test, *leaked]), protocol("masakhanews"), 48)


def test_dev_that_train_leaves_too_short():
    with pytest.raises(
        UsageError, match=r"the rest of train, for dev.*`b` has 20 of the 30.*shots=25.*protocol.dev=none"
    ):
        draw(task(), protocol("lm_bff"), 30)
    drawn = draw(task(), protocol("lm_bff", on_shortage="all"), 50)
    assert counts(drawn.train) == {"a": 50, "b": 50, "c": 50}
    assert counts(drawn.dev) == {"a": 10, "c": 20}


def test_the_way_out_of_a_shortage_works():
    ten = task(train=rows("train", {"a": 10, "b": 10, "c": 10}), dev=[])
    with pytest.raises(UsageError, match="shots=5 or fewer"):
        draw(ten, protocol("default"), 8)
    assert len(draw(ten, protocol("default"), 5).train) == 15
    with pytest.raises(UsageError, match=r"... \(9 classes\)"):
        draw(
            task(labels=tuple("abcdefghi"), dev=[], train=rows("train", dict.fromkeys("abcdefghi", 2))),
            protocol("default"),
            3,
        )


def test_official_dev_too_small():
    with pytest.raises(UsageError, match=r"in dev: class `c` has 7 of the 8.*protocol.dev_per_class=7"):
        draw(task(), protocol("default", dev_per_class=8), 3)


def test_no_dev_left_means_the_last_model():
    ten = task(train=rows("train", {"a": 10, "b": 10, "c": 10}), dev=[])
    drawn = draw(ten, protocol("sciprompt", on_shortage="all"), 10)
    assert (len(drawn.train), drawn.dev, drawn.select) == (30, (), "last")
    assert any("last model" in note for note in drawn.notes)


def test_total_too_large():
    with pytest.raises(UsageError, match=r"it has 180 of the 999 rows.*shots=180"):
        draw(task(), protocol("clues_total"), 999)


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


# the papers' samplers


def test_masakhanews_is_what_pandas_draws():
    pandas = pytest.importorskip("pandas")
    data = task()
    frame = pandas.DataFrame({"id": ids(data.train), "label": [row.target for row in data.train]})
    for k in (5, 10, 20, 50):
        expected = [i for _, group in frame.groupby("label") for i in group.sample(n=k, random_state=42)["id"]]
        assert ids(draw(data, protocol("masakhanews"), k).train) == expected
    dev = pandas.DataFrame({"id": ids(data.dev), "label": [row.target for row in data.dev]})
    expected = [i for _, group in dev.groupby("label") for i in group.sample(n=5, random_state=42)["id"]]
    assert ids(draw(data, protocol("masakhanews"), 5).dev) == expected


def test_masakhanews_notes_other_k_and_a_partial_train_split():
    data = task(notes=("train: 180 of the official 3309 rows",))
    notes = draw(data, protocol("masakhanews"), 7).notes
    assert any("shots=7" in note for note in notes)
    assert any("not the rows of the paper" in note for note in notes)


def test_lm_bff_shuffles_lines_and_buckets_them():
    lines = [f"{row.target}\t{row.id}" for row in task().train]
    np.random.RandomState(13).shuffle(lines)
    by_label: dict = {}
    for line in lines:
        by_label.setdefault(line.split("\t")[0], []).append(line.split("\t")[1])
    drawn = draw(task(), protocol("lm_bff"), 16, seed=13)
    assert ids(drawn.train) == [i for bucket in by_label.values() for i in bucket[:16]]
    assert ids(drawn.dev) == [i for bucket in by_label.values() for i in bucket[16:32]]


def test_dept_shares_k_evenly_over_the_shuffled_train_set():
    data = task()
    order = np.random.default_rng(3).permutation(len(data.train))
    drawn = draw(data, protocol("dept_total"), 16, seed=3)
    assert sorted(counts(drawn.train).values()) == [5, 5, 6]
    taken, left = [], dict.fromkeys("abc", 5)
    for i in order:  # five a class, then the very next row, whatever it is
        if left[data.train[i].target] > 0 or len(taken) == 15:
            left[data.train[i].target] -= 1
            taken.append(data.train[i].id)
        if len(taken) == 16:
            break
    assert ids(drawn.train) == taken


def test_dept_order_is_that_of_datasets_shuffle():
    datasets = pytest.importorskip("datasets")
    shuffled = datasets.Dataset.from_dict({"i": list(range(500))}).shuffle(seed=42)["i"]
    assert SAMPLERS["dept"](["a"] * 500, 4, 0, 42)[0] == list(shuffled)
    assert list(shuffled)[:5] == PINNED_DEPT


def test_randperm_is_that_of_torch():
    torch = pytest.importorskip("torch")
    for n, seed in [(0, 42), (1, 42), (2, 1), (277, 42), (1043, 2**31)]:
        generator = torch.Generator()
        generator.manual_seed(seed)
        assert torch_randperm(n, seed) == torch.randperm(n, generator=generator).tolist()


def test_sciprompt_moves_one_stream_through_train_and_dev():
    classes = [row.target for row in task().train]
    state = np.random.RandomState(144)
    train, dev, left = [], [], list(range(len(classes)))
    for part in (train, dev):
        picked = []
        for name in dict.fromkeys(classes[i] for i in left):
            bucket = np.array([i for i in left if classes[i] == name])
            state.shuffle(bucket)
            picked += bucket[:5].tolist()
        part += picked
        state.shuffle(np.array(picked))
        left = [i for i in left if i not in picked]
    drawn = draw(task(), protocol("sciprompt"), 5)
    assert sorted(ids(drawn.train)) == sorted(f"train:{i}" for i in train)
    assert sorted(ids(drawn.dev)) == sorted(f"train:{i}" for i in dev)


def test_clues_is_a_total_without_dev():
    drawn = draw(task(), protocol("clues_total"), 30, seed=1)
    assert (len(drawn.train), drawn.dev, drawn.select) == (30, (), "last")
    assert len({tuple(counts(draw(task(), protocol("clues_total"), 30, seed=s).train).items()) for s in range(5)}) > 1


@settings(max_examples=50, deadline=None)
@given(
    classes=st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    name=st.sampled_from(sorted(SAMPLERS)),
    k=st.integers(1, 10),
    dev=st.integers(0, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_sampler_ranks_every_row_and_keeps_train_and_dev_apart(classes, name, k, dev, seed):
    train_order, dev_order = SAMPLERS[name](classes, k, dev, seed)
    assert len(set(train_order)) == len(train_order)
    assert len(set(dev_order)) == len(dev_order)
    quota = dict.fromkeys("abc", k)
    taken = walk(train_order, classes, quota, lambda i: True)
    assert Counter(classes[i] for i in taken) == {c: min(k, n) for c, n in Counter(classes).items()}
    held = walk(dev_order, classes, dict.fromkeys("abc", dev), lambda i: i not in set(taken))
    assert Counter(classes[i] for i in held) == {
        c: min(dev, n - k) for c, n in Counter(classes).items() if n > k and dev
    }


# the papers' files


LM_BFF_SEEDS = (100, 13, 21, 42, 87)
KSHOT = {"rte": ("RTE", -3, -2), "stsb": ("STS-B", -3, -2), "cola": ("CoLA", 3, None), "mrpc": ("MRPC", 3, 4)}


def kshot(folder, subset: str, seed: int, split: str) -> list[tuple[str, str | None]]:
    """The texts of one of LM-BFF's shipped files, in file order."""
    name, first, second = KSHOT[subset]
    path = folder / "other/lmbff_kshot" / name / f"16-{seed}" / f"{split}.tsv"
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        table = [line.rstrip("\n").split("\t") for line in file][0 if subset == "cola" else 1 :]
    return [(line[first].strip(), None if second is None else line[second].strip()) for line in table]


def glue(task_config, folder, subset: str) -> TaskData:
    from peftbench.tasks import load_task

    return load_task(task_config("glue", f"task.subset={subset}"), folder)


def texts(split) -> list[tuple[str, str | None]]:
    return [(row.text, row.pair) for row in split]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("subset", ["rte", "stsb"])
def test_lm_bff_draws_the_shipped_rows(task_config, real_data, subset):
    data = glue(task_config, real_data, subset)
    for seed in LM_BFF_SEEDS:
        drawn = draw(data, protocol("lm_bff", drop_overlap=False), 16, seed=seed)
        assert texts(drawn.train) == kshot(real_data, subset, seed, "train")
        assert texts(drawn.dev) == kshot(real_data, subset, seed, "dev")


@pytest.mark.data
@pytest.mark.slow
def test_lm_bff_cola_was_shuffled_again_and_again(task_config, real_data):
    """CoLA's file has no header, so the released script shuffles its one list in place, seed after seed."""
    data = glue(task_config, real_data, "cola")
    for seed in LM_BFF_SEEDS:
        drawn = draw(data, protocol("lm_bff", drop_overlap=False), 16, seed=seed)
        assert texts(drawn.train) == kshot(real_data, "cola", seed, "train")
        assert texts(drawn.dev) == kshot(real_data, "cola", seed, "dev")
        order = np.random.RandomState(seed).permutation(len(data.train))
        data = replace(data, train=[data.train[i] for i in order])


@pytest.mark.data
@pytest.mark.slow
def test_lm_bff_mrpc_lacks_one_row(task_config, real_data):
    """Our copy has 3667 of MRPC's 3668 train rows; with any row in the gap the shipped draws come out."""
    data = glue(task_config, real_data, "mrpc")
    assert len(data.train) == 3667
    gap = Row("train:missing", "missing", data.train[0].target, pair="missing")
    data = replace(data, train=[*data.train[:90], gap, *data.train[90:]])
    for seed in LM_BFF_SEEDS:
        drawn = draw(data, protocol("lm_bff", drop_overlap=False), 16, seed=seed)
        assert texts(drawn.train) == kshot(real_data, "mrpc", seed, "train")
        assert texts(drawn.dev) == kshot(real_data, "mrpc", seed, "dev")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("lang", ["ibo", "lin", "orm", "pcm", "run", "sna", "xho", "yor"])
def test_masakhanews_draws_are_the_released_ones(real_data, lang):
    """The hashes are those of draws that were compared, row by row, with the released few-shot files."""
    folder = real_data / "masakhanews" / lang
    splits = {}
    for split in ("train", "dev", "test"):
        with (folder / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t")
            splits[split] = [
                Row(f"{split}:{i}", f"{r['headline']} {r['text']}", r["category"]) for i, r in enumerate(table)
            ]
    data = task(**splits, labels=tuple((folder / "labels.txt").read_text("utf-8").split()))
    hashes = [draw(data, protocol("masakhanews", drop_overlap=False), k).sha256()[:12] for k in (5, 10, 20, 50)]
    assert hashes == RELEASED[lang]
    drawn = draw(data, protocol("masakhanews"), 10)
    if lang == "ibo":
        assert drawn.notes[0].startswith("dev: 1 of the sampler's 30 rows")
        assert dict(drawn.overlap) == {"train_test": 21, "train_dev": 18, "dev_test": 3, "dropped": 28}
    else:
        assert drawn.sha256()[:12] == hashes[1]  # nothing that overlaps was drawn


PINNED_DEFAULT = ["train:72", "train:123", "train:67", "train:94", "train:178", "train:110"]
PINNED_DEPT = [473, 132, 472, 46, 40]
RELEASED = {
    "ibo": ["3d41e7efb3f4", "71e1d223b510", "55b98a466667", "abd31e3d41fc"],
    "lin": ["7d7a15175575", "9247968e467d", "f73089e566bf", "0f7811767cb5"],
    "orm": ["21c492b427ed", "e5bf8e25bc5c", "dbd918757971", "35784e560a95"],
    "pcm": ["72e78e9ba802", "6310e138aa8d", "3852b6325a9b", "b8aa3db11195"],
    "run": ["ed6fb67a8354", "1ebfc5d68cbd", "1be2aa295c3e", "f5ddf1b05a17"],
    "sna": ["5da2c72a942f", "3a8ca1a07503", "9bf33541f539", "45ee2caffab8"],
    "xho": ["35ed2212d540", "a4ca4e03aeaa", "17fc55e7dbbd", "f9eaa4821b74"],
    "yor": ["563d4cc42498", "592e71550003", "9cbf6b62f282", "62f0846572ad"],
}
