"""Prompts as files, and the choice of demonstrations: by hand-computed scores, never the row itself."""

import math

import numpy as np
import pytest
from tiny_answers import task

from peftbench.errors import UsageError
from peftbench.formulations.prompts import Writer, packaged_sets, prompt_set
from peftbench.formulations.selection import K1, B, Bm25, Selector, in_turn, words
from peftbench.tasks.base import Row

POOL = [
    Row("train:0", "the food was good", "positive"),
    Row("train:1", "the food the food", "negative"),
    Row("train:2", "service and service only", "negative"),
    Row("train:3", "nothing in common", "neutral", group="g"),
]


def by_hand(query, text, corpus):
    """The formula of arXiv 2412.02279's BM25, term by term."""
    average = sum(len(d) for d in corpus) / len(corpus)
    total = 0.0
    for word in query:
        n, f = sum(word in d for d in corpus), text.count(word)
        idf = math.log((len(corpus) - n + 0.5) / (n + 0.5) + 1)
        total += idf * f * (K1 + 1) / (f + K1 * (1 - B + B * len(text) / average))
    return total


def test_bm25_is_the_formula_but_for_its_constant_factor():
    corpus = [words(row.text) for row in POOL]
    for query in ("good food", "The food, the SERVICE!", "nothing known"):
        expected = [by_hand(words(query), text, corpus) / (K1 + 1) for text in corpus]
        assert Bm25([row.text for row in POOL])(query) == pytest.approx(expected, abs=1e-6)
    assert Bm25(["...", "!"])("a") == pytest.approx([0, 0])
    assert Bm25(["a", "b"])("?") == pytest.approx([0, 0])


def toy_vectors(texts):
    """Near are texts of like length."""
    angles = np.array([len(text) for text in texts]) / 40
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def chosen(select, text="the food was great", count=2, **more):
    similar = toy_vectors if select in ("semantic", "hybrid") else None
    return [r.id for r in Selector(POOL, select, count, similar=similar, **more)([Row("test:0", text, None)])[0]]


def test_each_strategy_ranks_by_its_own():
    assert chosen("bm25") == ["train:0", "train:1"]
    assert chosen("semantic", "x" * 24, 1) == ["train:2"]
    assert chosen("hybrid", "the food" + "x" * 16, 2) == ["train:1", "train:2"], "one by BM25, one by nearness"
    assert chosen("random", seed=1, count=4) != chosen("random", seed=2, count=4)
    assert chosen("random", seed=1) == chosen("random", "another text", seed=1)
    assert in_turn([[3, 1, 2], [1, 3, 2]]) == [3, 1, 2]
    assert len(chosen("bm25", count=None)) == 4
    assert chosen("bm25", count=0) == []


def test_a_row_never_demonstrates_itself_nor_its_own_text_or_group():
    selector = Selector(POOL, "bm25", None)
    itself, spelled_otherwise, of_the_group = selector(
        [POOL[0], Row("test:1", "The food was GOOD!", None), Row("test:2", "x", None, group="g")]
    )
    assert "train:0" not in [r.id for r in (*itself, *spelled_otherwise)]
    assert [r.id for r in of_the_group].count("train:3") == 0
    assert len(itself) == len(spelled_otherwise) == len(of_the_group) == 3


def test_balance_gives_every_class_its_best_and_order_is_kept():
    assert {r.target for r in Selector(POOL, "bm25", 3, balance=True)([Row("t", "the food", None)])[0]} == {
        "positive", "negative", "neutral"}  # fmt: skip
    row, two = Row("test:0", "x", None), POOL[:2]
    assert Selector(POOL, "random", 2).ordered(row, two) == two[::-1], "the best stands last"
    assert Selector(POOL, "random", 2, order="nearest_first").ordered(row, two) == two
    mixed = [Selector(POOL, "random", 4, order="random", seed=s).ordered(row, POOL) for s in (1, 2, 1)]
    assert mixed[0] == mixed[2] != mixed[1]


def writer(name, number=0, labels=("sports", "health"), **changes):
    data = task(labels, **changes)
    return Writer(prompt_set(name), number, data)


def test_plain_prompts_name_the_fields_and_the_labels():
    plain = writer("plain", fields=("sentence", "aspect"), label_words={"sports": "sport"})
    row = Row("t", "Good {food}", "sports", pair="food")
    shown = plain.example(plain.fields_of(row), "sport")
    assert shown == "sentence: Good {food} aspect: food\nanswer: sport"
    asked = plain.example(plain.fields_of(row))
    assert plain.write([shown], asked).splitlines() == [
        "Answer with one of: sport, health.", "", "sentence: Good {food} aspect: food", "answer: sport", "",
        "sentence: Good {food} aspect: food", "answer:"]  # fmt: skip


def test_masakhanews_prompts_are_there_with_all_their_labels():
    assert {"afrobench", "masakhanews", "plain", "protoqa", "verbatim"} <= {*packaged_sets()}
    assert len(prompt_set("afrobench").prompts) == 5
    for name, number in (("masakhanews", 0), *(("afrobench", n) for n in range(5))):
        made = writer(name, number, languages=("hau",))
        text = made.write([], made.example(made.fields_of(Row("t", "Labari", None))))
        assert "Labari" in text
        assert "religion" in text, "also of a task without it"
        assert ("business" in text) != ("geography" in text), "number 3 has another list, as AfroBench's has"
    assert "Hausa" in writer("afrobench", 1, languages=("hau",)).instruction


def test_files_of_ones_own_and_their_mistakes(tmp_path):
    path = tmp_path / "mine.yaml"

    def file(text):
        path.write_text(text)
        return str(path)

    good = file("prompts: [{example: '{text} = {answer}', separator: ' | '}]\nwords: {sports: S, health: H}\n")
    made = writer(good)
    assert made.write(["a = S"], made.example({"text": "b"})) == "a = S | b ="
    mistakes = {
        "prompts: []": "`prompts` has to be a list",
        "prompt: x": "prompt: no such key. Did you mean `prompts`",
        "prompts: [{example: '{text} x'}]": r"prompts\[0\].example: has to end with {answer}",
        "prompts: [{example: 'x {answer}'}]": r"prompts\[0\].example: has no field",
        "prompts: [{exampel: '{text} {answer}'}]": r"prompts\[0\].exampel: no such key. Did you mean `example`",
        "words: {sports: 1}\nprompts: [{example: '{text} {answer}'}]": "`words` has to be a mapping to texts",
    }
    for text, message in mistakes.items():
        with pytest.raises(UsageError, match=message):
            prompt_set(file(text))
    with pytest.raises(UsageError, match=r"neither a file nor a set of prompts\. Did you mean `plain`"):
        prompt_set("plian")
    with pytest.raises(UsageError, match=r"has no word for the label `finance`.*plain"):
        writer("masakhanews", labels=("sports", "finance"))
    with pytest.raises(UsageError, match=r"prompt_number=5.*5 prompts, 0 to 4"):
        writer("afrobench", 5)
    with pytest.raises(UsageError, match=r"nothing for {language}"):
        writer("afrobench", 1)
    lacking = writer(file("prompts: [{example: '{txet} {answer}'}]"))
    with pytest.raises(UsageError, match=r"no field {txet}. Did you mean `text`"):
        lacking.fields_of(Row("t", "x", None))
