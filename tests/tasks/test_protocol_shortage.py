"""Rows that a draw may not take, and draws that do not find enough."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_tasks import NAMES, counts, ids, protocol, rows, task

from peftbench.errors import UsageError
from peftbench.tasks.base import Row, TaskData, text_key
from peftbench.tasks.protocols import draw
from peftbench.tasks.protocols.splits import tenth

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
