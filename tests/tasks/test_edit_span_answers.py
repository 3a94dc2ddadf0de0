"""Answers as places: what is written comes back whole, and what is damaged says nothing that is not there."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.tasks import load_task
from peftbench.tasks.edit_spans import (
    Edit,
    applied,
    edits,
    numbered,
    read_edits,
    read_places,
    write_edits,
    write_places,
)
from peftbench.tasks.tuple_formats import TupleForm

SOURCE = "The situation are change ."
WORD = st.sampled_from(["a", "b", "", ",", "a,", "1", "23", "NONE", "none", "\\", "\\1", "\\NONE", "字", '"', ";"])
SENTENCE = st.lists(WORD, min_size=1, max_size=8).map(" ".join).filter(lambda text: text.strip() == text != "")
POLARITY = ("negative", "neutral", "positive")
UABSA = TupleForm(("aspect", "polarity"), {"polarity": POLARITY})
ASQP = TupleForm(("aspect", "category", "polarity", "opinion"), {"polarity": POLARITY})


def test_the_example_of_the_method():
    assert write_edits(SOURCE, "The situation has changed .") == "2 4 has changed"
    assert write_edits(SOURCE, SOURCE) == "none"
    assert write_edits("a b c d", "x a c") == "0 2 x a, 3 4 NONE"
    assert numbered("a b") == "0 a 1 b"


@settings(deadline=None, max_examples=300)
@given(SENTENCE, SENTENCE)
def test_gold_edits_give_the_gold_text(source, target):
    assert read_edits(source, write_edits(source, target)) == (target, 0)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_no_alignment_changes_fewer_words(source, target):
    @cache
    def distance(i, j):
        if i == len(source) or j == len(target):
            return len(source) - i + len(target) - j
        same = source[i] == target[j]
        return min(distance(i + 1, j + 1) + (not same), distance(i + 1, j) + 1, distance(i, j + 1) + 1)

    found = edits(source, target)
    assert applied(source, found) == target
    assert sum(max(e.end - e.start, len(e.words)) for e in found) == distance(0, 0)
    assert all(a.end < b.start for a, b in pairwise(found)), "neighbours are one edit"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("None.", (SOURCE, 0)),
        ("2 4 has changed", ("The situation has changed .", 0)),
        ("4 4 now, 2 4 has changed", ("The situation has changed now .", 0)),  # in any order
        ("2 4 has changed, 3 4 x", ("The situation has changed .", 1)),  # overlaps: the earlier one stays
        ("2 2 a, 2 2 b", ("The situation a are change .", 1)),
        ("2 9 x, 2 3 is", ("The situation is change .", 1)),  # no such place
        ("3 2 x", (None, 1)),
        ("0 5 NONE", (None, 0)),  # nothing is left of the sentence
        ("2 3 is, 4 5", ("The situation is change .", 1)),  # cut off
        ("The situation has changed .", (None, 0)),
        ("", (None, 0)),
        ("2 4", (None, 0)),
        ("99999999999 4 x", (None, 0)),
    ],
)
def test_what_is_read_of_edits(text, found):
    assert read_edits(SOURCE, text) == found


def test_tuples_by_their_places():
    source = "The battery life is great , the VT 's screen is not"
    gold = (("battery life", "positive"), ("screen", "negative"), ("VT's", "neutral"), ("NULL", "neutral"))
    text = write_places(source, gold, UABSA)
    assert text == '1 3, positive; 9 10, negative; "VT\'s", neutral; NULL, neutral'
    assert read_places(source, text, UABSA) == (gold, 0)
    assert write_places(source, (), UABSA) == "none"
    assert read_places(source, "None", UABSA) == ((), 0)
    quad = (("screen", "display, quality", "negative", "not"),)
    assert write_places(source, quad, ASQP) == '9 10, "display, quality", negative, 11 12'
    assert read_places(source, write_places(source, quad, ASQP), ASQP) == (quad, 0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0 1, positive; 1 2, good", ((("a", "positive"),), 1)),  # no such polarity
        ("0 1, positive, 1 2", (None, 1)),
        ("0 9, positive", (None, 1)),
        ("1 1, positive", (None, 1)),
        ("b, positive", (None, 1)),  # words of the text without a place or quotes
        ('"b, positive', (None, 0)),
        ('"\\x", positive', (None, 1)),
        ("I do not know", (None, 1)),
        ("", (None, 0)),
        (";;;", (None, 0)),
    ],
)
def test_what_is_read_of_places(text, found):
    assert read_places("a b c", text, UABSA) == found


@settings(deadline=None, max_examples=200)
@given(SENTENCE, st.text(alphabet='0123 ,;"\\NONEab', max_size=30))
def test_any_text_can_be_read(source, text):
    new, _ = read_edits(source, text)
    words = {*source.split(" "), *(w.removeprefix("\\").removesuffix(",") for w in text.split(" "))}
    assert new is None or {w.removesuffix(",") for w in new.split(" ")} <= {w.removesuffix(",") for w in words}
    for tuple_ in read_places(source, text, TupleForm(("aspect",)))[0] or ():
        assert tuple_[0] in " ".join(source.split()) or '"' in text or tuple_ == ("NULL",)


@pytest.mark.data
@pytest.mark.parametrize(("name", "pairs"), [("jfleg", 6_004), pytest.param("asset", 23_590, marks=pytest.mark.slow)])
def test_gold_edits_of_the_real_files_give_every_reference(task_config, real_data, name, pairs):
    data = load_task(task_config(name), real_data)
    rows = [(row.text, reference) for row in (*data.train, *data.test) for reference in row.target]
    assert len(rows) == pairs
    assert not [pair for pair in rows if read_edits(pair[0], write_edits(*pair)) != (pair[1], 0)]


TUPLES = ["tasd_rest15", "asqp_rest15", "acos_laptop"]
PARTS = [f"{s}_{d}" for s in ("aste", "aope", "uabsa", "ae", "oe", "aoe") for d in ("lap14", "rest14", "rest15")]


@pytest.mark.data
@pytest.mark.parametrize(
    ("subsets", "rows"),
    [
        (["aste_rest15", "tasd_rest15"], (2_787, 39)),
        pytest.param([*PARTS, *TUPLES], (47_553, 48), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_gold_places_of_the_real_files_give_every_tuple(task_config, real_data, subsets, rows):
    count = written_out = 0
    for subset in subsets:
        data = load_task(task_config("absa", f"task.subset={subset}"), real_data)
        for row in (*data.train, *data.dev, *data.test):
            text = write_places(row.text, row.target, data.tuple_form)
            assert read_places(row.text, text, data.tuple_form) == (row.target, 0), (subset, row)
            count, written_out = count + 1, written_out + ('"' in text)
    assert (count, written_out) == rows, "rows; those with a word that their sentence does not have"


def test_edits_are_applied_from_the_right():
    assert applied(list("abcd"), [Edit(0, 1, ("x", "y")), Edit(2, 2, ("z",)), Edit(3, 4, ())]) == list("xybzc")
