"""Kinds of targets: what each declares, and the entities that tags mark, against a second way to find them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.errors import UsageError
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.metrics import score
from peftbench.tasks.problems import kind, kinds
from peftbench.tasks.problems.base import Answers
from peftbench.tasks.problems.tags import Entity, entities, orphans, tag_set

TYPES = ("PER", "LOC")
sentence = st.lists(st.sampled_from(tag_set(TYPES)), min_size=1, max_size=12)


def spans_by_regex(tags):
    """Entities from the tags as one text: B, then as many I of its type as follow."""
    text = " ".join(f"{tag:<5}" for tag in tags) + " "
    found = re.finditer(r"B-(\w+) +(?:I-\1 +)*", text)
    return {(m[1], m.start() // 6, m.end() // 6) for m in found}


def micro_f1(pairs):
    right = sum(len(spans_by_regex(t) & spans_by_regex(p)) for t, p in pairs)
    answered, true = (sum(len(spans_by_regex(pair[side])) for pair in pairs) for side in (1, 0))
    precision, recall = right / max(answered, 1), right / max(true, 1)
    return 2 * precision * recall / max(precision + recall, 1e-9)


def task(problem, metrics) -> TaskData:
    return TaskData(
        "t", "s", (), (), (), TYPES, {}, ("text",), problem, metrics[0], metrics, DataSource("packaged", "")
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(sentence.flatmap(lambda t: st.tuples(st.just(t), st.permutations(t))), min_size=1, max_size=8))
def test_entity_f1_equals_an_independent_computation(pairs):
    rows = [Row(f"test:{i}", "x", tuple(t)) for i, (t, _) in enumerate(pairs)]
    data = task("tags", ("f1_entities", "precision_entities", "recall_entities"))
    scores = score(data, rows, [tuple(p) for _, p in pairs])
    assert scores["f1_entities"] == pytest.approx(100 * micro_f1(pairs))
    seqeval = pytest.importorskip("seqeval.metrics", reason="no seqeval, which is in the extra `dev`")
    from seqeval.scheme import IOB2

    truth, guess = map(list, zip(*pairs, strict=True))
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    assert scores["f1_entities"] == pytest.approx(100 * seqeval.f1_score(truth, guess, **strict))
    assert scores["precision_entities"] == pytest.approx(100 * seqeval.precision_score(truth, guess, **strict))
    assert scores["recall_entities"] == pytest.approx(100 * seqeval.recall_score(truth, guess, **strict))
    lenient = kind("tags").metrics["f1_entities_lenient"](Answers(truth, guess))
    assert lenient == pytest.approx(seqeval.f1_score(truth, guess, zero_division=0))


def test_an_entity_begins_with_b_alone_unless_lenient():
    tags = ["I-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-PER", "B-PER", "B-PER"]
    assert list(entities(tags)) == [Entity("LOC", 3, 5), Entity("PER", 6, 7), Entity("PER", 7, 8)]
    assert list(entities(tags, strict=False))[:3] == [Entity("PER", 0, 2), Entity("LOC", 3, 5), Entity("PER", 5, 6)]
    assert orphans(tags) == 2
    assert list(entities(None)) == []


def test_a_sentence_without_an_answer_misses_its_entities_and_gives_none():
    rows = [Row("test:0", "a b", ("B-PER", "O")), Row("test:1", "c", ("B-LOC",))]
    scores = score(task("tags", kind("tags").usual), rows, [("B-PER", "O"), None])
    assert scores == pytest.approx({"f1_entities": 200 / 3, "precision_entities": 100.0, "recall_entities": 50.0})


def test_tags_and_words_have_to_be_as_many():
    with pytest.raises(ValueError, match="2 tags for 1 words"):
        score(task("tags", ("f1_entities",)), [Row("test:0", "a", ("O",))], [("O", "O")])


def test_each_kind_has_its_usual_metrics_and_says_what_a_draw_counts():
    assert {"classification", "regression", "tuples", "tags"} <= kinds().keys()
    for name, found in kinds().items():
        assert found.name == name
        assert {*found.usual, *found.always} <= found.metrics.keys()
    assert list(kind("classification").labels_of("sports")) == ["sports"]
    assert list(kind("tags").labels_of(("B-PER", "I-PER", "B-LOC"))) == ["PER", "LOC"]
    with pytest.raises(UsageError, match="`tag` is no problem"):
        kind("tag")


def test_kinds_are_shown_in_few_words():
    assert kind("tags").show(("B-PER", "I-PER", "O", "B-LOC")) == "PER 0-1, LOC 3"
    assert kind("tuples").show([["battery", "good"]]) == "(battery, good)"
    assert kind("tags").by_label(["B-PER", "O"], ["B-PER", "B-LOC"]) == {"PER": (1, 1, 1), "LOC": (0, 1, 0)}
