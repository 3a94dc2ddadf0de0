"""Tuples written and read: gold answers come back whole, and a damaged answer never says what is not in it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.tasks import load_task
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.metrics import score
from peftbench.tasks.tuple_formats import FORMATS, TupleForm

POLARITY = ("negative", "neutral", "positive")
ASTE = TupleForm(("aspect", "opinion", "polarity"), {"polarity": POLARITY})
ASQP = TupleForm(("aspect", "category", "polarity", "opinion"), {"polarity": POLARITY}, paper="paraphrase")
AE = TupleForm(("aspect",))
WORDS = st.lists(st.text("abcé字'\"-$", min_size=1, max_size=5), min_size=1, max_size=3).map(" ".join)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(WORDS, WORDS, st.sampled_from(POLARITY)), max_size=4))
def test_what_is_written_is_read(tuples):
    for name in ("json", "extraction"):
        assert FORMATS[name].read(FORMATS[name].write(tuples, ASTE), ASTE) == tuple(tuples)
    singles = [t[:1] for t in tuples]
    for name in ("json", "extraction"):
        assert FORMATS[name].read(FORMATS[name].write(singles, AE), AE) == tuple(singles)
    quads = [(a, "food quality", p, o) for a, o, p in tuples] or [("NULL", "food quality", "positive", "good")]
    assert FORMATS["paraphrase"].read(FORMATS["paraphrase"].write(quads, ASQP), ASQP) == tuple(quads)


def test_the_formats_of_the_papers():
    triplets = [("battery life", "good", "positive"), ("screen", "dim", "negative")]
    assert FORMATS["extraction"].write(triplets, ASTE) == "(battery life, good, positive); (screen, dim, negative)"
    assert FORMATS["extraction"].write([], ASTE) == "None"
    quads = [("pizza", "food quality", "positive", "delicious"), ("NULL", "service general", "negative", "slow")]
    assert FORMATS["paraphrase"].write(quads, ASQP) == (
        "food quality is great because pizza is delicious [SSEP] service general is bad because it is slow"
    )


@pytest.mark.parametrize(
    ("name", "form", "text", "found"),
    [
        ("json", ASTE, "I cannot say.", None),
        ("json", ASTE, '[["a", "b", "positive"]', None),  # no end
        ("json", ASTE, "[" * 5000, None),
        ("json", ASTE, 'Sure: [["a", "b", "positive"]] and [["c", "d", "negative"]]', (("a", "b", "positive"),)),
        ("json", ASTE, '[["a", "b", "good"], ["a", "positive"], ["", "b", "positive"], 7, ["a", 1, "positive"]]', ()),
        ("json", ASTE, '[[" a  b ", "c", "POSITIVE"]]', (("a b", "c", "positive"),)),
        ("json", ASTE, r'[["\bad", "b", "positive"]]', None),  # an escape of a letter that is not there
        ("json", AE, '["a", ["b"], ["c", "d"]]', (("a",), ("b",))),
        ("extraction", ASTE, "a, b, positive", None),
        ("extraction", ASTE, "none", ()),
        ("extraction", ASTE, "(a, b, good); (c, d, negative)", (("c", "d", "negative"),)),
        # a comma inside an element: read where one reading alone is possible, left out where there are two
        ("extraction", ASTE, "(salad , figs, fresh, positive)", (("salad , figs", "fresh", "positive"),)),
        ("extraction", ASTE, "(salad, beets, fresh, positive)", ()),
        ("extraction", TupleForm(("aspect", "polarity"), {"polarity": POLARITY}), "(soda, no ice, positive)",
         (("soda, no ice", "positive"),)),
        ("paraphrase", ASQP, "food is fine", None),
        ("paraphrase", ASQP, "food is nice because it is good", None),
    ],
)  # fmt: skip
def test_what_is_read_of_an_answer(name, form, text, found):
    assert FORMATS[name].read(text, form) == found


def mutated(text: str, rng: random.Random) -> str:
    """One to three edits of the kinds that models make."""
    for _ in range(rng.randint(1, 3)):
        at, to = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        piece = rng.choice(['"', "[", "]", "(", ")", ",", ", ", "; ", " is ", "positive", "\\", "NULL", "字", "\n", ""])
        text = rng.choice(
            [text[:at] + piece + text[at:], text[:at] + text[to:], text[:at] + piece + text[to:], text[:to]]
        )
    return text


def check_mutations(tuples_of_rows, form, name, rng, count):
    """No crash, and every element that is read stands in the text: a word for a closed set's value too."""
    from peftbench.tasks.tuple_formats import OPINION_WORDS

    for _ in range(count):
        text = mutated(FORMATS[name].write(rng.choice(tuples_of_rows), form), rng)
        plain = text.replace('\\"', '"').replace("\\\\", "\\") if name == "json" else text
        spoken = " ".join(plain.split()).lower()
        for found in FORMATS[name].read(text, form) or ():
            for element, value in zip(form.elements, found, strict=True):
                word = OPINION_WORDS[value] if name == "paraphrase" and element == "polarity" else value
                implicit = name == "paraphrase" and value == "NULL"
                assert ("it" if implicit else word.lower()) in spoken, (text, found)


def test_a_damaged_answer_says_nothing_that_is_not_in_it():
    rng = random.Random(1)
    triplets = [[("battery life", "good", "positive"), ('the "big" one', "dim", "negative")], []]
    check_mutations(triplets, ASTE, "json", rng, 600)
    check_mutations(triplets, ASTE, "extraction", rng, 600)
    check_mutations([[("pizza", "food quality", "positive", "tasty")]], ASQP, "paraphrase", rng, 300)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(*[st.lists(st.tuples(*[st.sampled_from("abc")] * 2), max_size=4)] * 2, st.booleans()),
        min_size=1,
        max_size=6,
    )
)
def test_f1_is_micro_over_the_corpus(items):
    """Counted with multisets of one each, as the released evaluations of GAS and Paraphrase do."""
    right = given_ = asked = invalid = 0
    for truth, guess, valid in items:
        t, g = Counter(set(truth)), Counter(set(guess) if valid else ())
        right, given_, asked = right + (t & g).total(), given_ + g.total(), asked + t.total()
        invalid += not valid
    precision, recall = right / given_ if given_ else 0, right / asked if asked else 0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    rows = [Row(f"test:{i}", "x", tuple(t)) for i, (t, _, _) in enumerate(items)]
    names = ("f1_tuples",)
    data = TaskData("t", "s", (), (), (), (), {}, ("text",), "tuples", names[0], names, DataSource("packaged", ""))
    found = score(data, rows, [tuple(g) if valid else None for _, g, valid in items])
    assert found["f1_tuples"] == pytest.approx(100 * f1)
    assert found["precision_tuples"] == pytest.approx(100 * precision)
    assert found["recall_tuples"] == pytest.approx(100 * recall)


DOMAINS = ("lap14", "rest14", "rest15")
EVERY = [f"{s}_{d}" for s in ("aste", "aope", "uabsa", "ae", "oe", "aoe") for d in DOMAINS]


@pytest.mark.data
@pytest.mark.parametrize("subset", [*EVERY, "tasd_rest15", "asqp_rest15", "acos_laptop"])
def test_every_gold_answer_of_the_real_files_comes_back(task_config, real_data, subset):
    data = load_task(task_config("absa", f"task.subset={subset}"), real_data)
    rows, form = (*data.train, *data.dev, *data.test), data.tuple_form
    for name in ("json", form.paper):
        bad = [
            r.target
            for r in rows
            if r.target and FORMATS[name].read(FORMATS[name].write(r.target, form), form) != r.target
        ]
        assert not bad, (name, len(bad), bad[:2])
    rng = random.Random(1)
    for name in ("json", form.paper):
        check_mutations([r.target for r in rows], form, name, rng, 300)
