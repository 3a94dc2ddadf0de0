"""`answers`: scores against the evaluator's published cases and a brute-force assignment; lists written and read."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.errors import UsageError
from peftbench.statistics.scorers import Items, Resamples, scorer
from peftbench.tasks import load_task
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.tasks.metrics import check_metrics, score
from peftbench.tasks.problems import kind
from peftbench.tasks.problems.answers import exact, reached
from peftbench.tasks.problems.base import Answers
from peftbench.tasks.protoqa import as_statement
from peftbench.tasks.wordnet import Matcher, cuts

ANSWERS = kind("answers")
METRICS = ANSWERS.usual
TASK = TaskData("t", "s", (), (), (), (), {}, ("text",), "answers", "max_answer_1", METRICS, DataSource("packaged", ""))
TEN = tuple((count, (str(count),)) for count in (60, 30, 10))


def brute_force(target, ranked) -> float:
    """The best one-to-one assignment, by trying all."""
    hits = [[count if answer in cluster else 0 for count, cluster in target] for answer in ranked]
    padded = [*hits, *([[0] * len(target)] * len(target))]
    return max(
        sum(padded[r][c] for c, r in enumerate(rows))
        for rows in itertools.permutations(range(len(padded)), len(target))
    )


@pytest.mark.parametrize(
    ("ranked", "answers", "incorrect", "value"),
    [
        (["60", "30", "10"], None, 3, 1.0),
        (["30", "a", "b"], None, 3, 0.3),
        (["30", "a", "b"], 1, None, 0.5),
        (["10", "30", "60"], 1, None, 1 / 6),
        (["60", "60", "60"], None, 3, 0.6),
        (["30", "X", "X", "10", "X", "60"], None, 3, 0.4),
        (["X", "X", "X", "10", "X", "60"], None, 3, 0.0),
        (["30", "X", "10", "X", "60"], None, 3, 1.0),
        (["30", "30", "30", "30", "30", "30", "60"], None, 3, 0.9),
        ([" 60 ", "THIRTY"], 3, None, 0.6),
        (None, 1, None, 0.0),
    ],
)
def test_scores_are_the_evaluators(ranked, answers, incorrect, value):
    assert reached(TEN, ranked, exact, answers, incorrect) == pytest.approx(value)


def test_an_answer_in_two_clusters_goes_where_the_whole_gains_most():
    target = ((50, ("dog", "pet")), (30, ("cat", "pet")), (20, ("fish",)))
    draws = random.Random(0)
    for _ in range(30):
        ranked = [draws.choice(["dog", "cat", "pet", "fish", "car"]) for _ in range(3)]
        found = reached(target, ranked, exact, 3, None)
        assert found == pytest.approx(brute_force(target, ranked) / 100)
    assert reached(target, ["pet", "dog"], exact, 2, None) == 1.0, "the pet is the cat"


def test_answers_are_compared_by_their_first_fifty_characters():
    long = "x" * 60
    assert reached(((1, (long,)),), [long.upper() + "y"], exact, 1, None) == 1.0


def test_scores_of_rows_resample_as_they_are():
    rows = [Row("test:0", "q", TEN), Row("test:1", "q", ((2, ("a", "b")), (1, ("c",))))]
    given_answers = [("30", "60"), ("b", "x")]
    scores = score(TASK, rows, given_answers)
    assert scores["max_answer_1"] == pytest.approx(100 * (0.5 + 1) / 2)
    assert scores["max_answer_3"] == pytest.approx(100 * (0.9 + 2 / 3) / 2)
    targets = tuple(json.loads(json.dumps(row.target)) for row in rows)  # as a file of predictions has them
    for name, value in scores.items():
        assert scorer(name, Items(targets, problem="answers"), list(given_answers)).score() == pytest.approx(value)


words = st.text("abc .,'", min_size=1, max_size=12).filter(lambda t: t.strip(" ."))


@given(st.lists(words, min_size=1, max_size=15))
def test_a_list_comes_back_as_it_was_written(answers):
    target = tuple((1, (answer.strip(),)) for answer in answers)
    text = ANSWERS.write(target, TASK, "words")
    assert ANSWERS.parse(text, TASK, "words") == tuple(answer.strip().rstrip(". ") for answer in answers)
    flat = text.replace("\n", " ")  # T5's tokenizer knows no line ends
    assert ANSWERS.parse(flat, TASK, "words") == ANSWERS.parse(text, TASK, "words")


@given(st.text("1234.) \nab", max_size=60))
def test_nothing_is_read_that_is_not_there(text):
    for style in ANSWERS.styles:
        for answer in ANSWERS.parse(text, TASK, style) or ():
            assert answer in text
            assert answer.strip(". ")


@pytest.mark.parametrize(
    ("text", "style", "read"),
    [
        (" 1. age\n2. name.\n3. a job\nbecause", "words", ("age", "name", "a job")),
        ("I would say: 1) Age 2) Name", "words", ("Age", "Name")),
        ("1. 9 a.m. 2. 2 p.m. 4. never", "words", ("9 a.m", "2 p.m. 4. never")),
        ("2. name", "words", None),
        ("age, name", "words", None),
        ("1.", "words", None),
        (" age.\nname", "paper", ("age",)),
        ("St. louis. They say so.", "paper", ("St. louis",)),
        ("\n", "paper", None),
    ],
)
def test_what_is_no_numbered_list_is_invalid(text, style, read):
    assert ANSWERS.parse(text, TASK, style) == read


def test_samples_are_ranked_by_how_often_and_how_early_they_came():
    assert ANSWERS.pool([("age",), ("name",), ("Age ",), None]) == ("age", "name")
    assert ANSWERS.pool([("a", "b"), ("b", "c"), ("c",)]) == ("b", "c", "a"), "1.5, 1.5 and 1; b came first"
    assert ANSWERS.pool([None, None]) is None
    vote = kind("classification").pool
    assert vote(["no", "yes", None, "yes", "no"]) == "no", "as many; the first drawn"
    assert vote([None]) is None


def test_answers_are_shown_with_their_people():
    assert ANSWERS.show(TEN) == "60 (60), 30 (30), 10 (10)"
    assert ANSWERS.show(("age", "name")) == "age, name"


SYNSETS = {"automobile": {"car.n.01"}, "car": {"car.n.01", "cable_car.n.01"}, "ice_cream": {"ice_cream.n.01"}}


def test_meanings_are_compared_by_runs_of_words():
    assert sorted(cuts(["a", "b", "c"])) == [("a", "b", "c"), ("a", "b_c"), ("a_b", "c"), ("a_b_c",)]
    same = Matcher(str.split, lambda run: frozenset(SYNSETS.get(run, ())))
    assert same("the automobile", "a car")
    assert same("ice cream", "the ice cream")
    assert not same("red car", "automobile"), "one run of two: a half is rounded down"
    assert same("big red car", "big red automobile")
    assert not same("the", "the"), "nothing is left without stop words"


def test_without_wordnet_its_metrics_are_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nltk.corpus", None)
    with pytest.raises(UsageError, match=r"its package nltk.*without that ending"):
        check_metrics(["max_answer_1_wordnet"], "max_answer_1_wordnet", "answers")


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("Name something that keeps children safe.", "one thing that keeps children safe is"),
        ("Besides birds, name a pet people keep in an cage.", "besides birds, one pet people keep in an cage is"),
        ("Name somewhere that has a pole.", "somewhere that has a pole is"),
        ("Tell me something a poor person might have", "one thing a poor person might have is"),
        ("What could be some of the reasons?", "one could be some of the reasons is"),
        ("How can you tell someone is old?", "one way to tell one person is old is"),
        ("Where to?", "q: where to? a:"),
    ],
)
def test_questions_become_beginnings_of_sentences(question, statement):
    assert as_statement(question) == statement


TRAIN = "one fruit is\tapple.\none fruit is\tpear.\none pet is\tdog.\none fruit is\tapple.\n"
TEST = {
    "metadata": {"id": "r1q1"},
    "question": {"original": "Name a tool.", "normalized": "name a tool."},
    "answers": {
        "clusters": {"a": {"count": 3, "answers": ["saw"]}, "b": {"count": 9, "answers": ["hammer", "mallet"]}}
    },
}


@pytest.fixture
def questions(tmp_path):
    """A folder with ProtoQA's files, of three questions."""
    home = tmp_path / "more/commonsense/protoqa"
    home.mkdir(parents=True)
    (home / "finetune_train.txt").write_text(TRAIN, encoding="utf-8")
    (home / "dev.crowdsourced.jsonl").write_text(json.dumps(TEST) + "\n", encoding="utf-8")
    return home


def test_protoqa_has_a_row_a_question_or_a_row_an_answer(task_config, tmp_path, questions):
    data = load_task(task_config("protoqa"), tmp_path)
    assert [(row.text, row.target) for row in data.train] == [
        ("one fruit is", ((1, ("apple",)), (1, ("pear",)))),
        ("one pet is", ((1, ("dog",)),)),
    ]
    (row,) = data.dev
    assert (row.text, row.target) == ("one tool is", ((9, ("hammer", "mallet")), (3, ("saw",))))
    assert row.parts == {"asked": "Name a tool."}
    assert score(data, data.dev, [("mallet",)])["max_answer_3"] == pytest.approx(75)
    single = load_task(task_config("protoqa", "task.subset=answers"), tmp_path)
    assert [row.target[0][1] for row in single.train] == [("apple",), ("pear",), ("dog",)]
    assert [row.group for row in single.train] == ["train:0", "train:0", "train:1"]


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("finetune_train.txt", "one fruit is apple.\n", "line 1: a question, a tab and an answer"),
        ("finetune_train.txt", "one fruit is\t.\n", "line 1: a question and an answer are expected"),
        (
            "dev.crowdsourced.jsonl",
            json.dumps({**TEST, "answers": {"clusters": {}}}),
            "line 1: not a question.*no cluster",
        ),
        (
            "dev.crowdsourced.jsonl",
            json.dumps({**TEST, "answers": {"clusters": {"a": {"count": 0, "answers": ["x"]}}}}),
            "line 1.*count is 0",
        ),
        ("dev.crowdsourced.jsonl", json.dumps({"metadata": {}}), "line 1: not a question.*question"),
    ],
)
def test_bad_files_are_named_by_line(task_config, tmp_path, questions, file, content, told):
    (questions / file).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        load_task(task_config("protoqa"), tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "numbers"),
    [
        ("dev.predictions.gpt2finetuned.json", [42.38, 40.31, 42.23, 47.55, 21.82, 36.57, 40.15]),
        ("dev.predictions.human.jsonl", [79.10, 69.79, 66.45, 67.76, 50.80, 62.37, 65.12]),
    ],
)
def test_predictions_of_the_data_sets_authors_have_their_scores(task_config, real_data, file, numbers):
    data = load_task(task_config("protoqa"), real_data)
    assert (len(data.train), len(data.dev)) == (8765, 52)
    home = real_data / "more/commonsense/protoqa"
    ids = [json.loads(line)["metadata"]["id"] for line in (home / "dev.crowdsourced.jsonl").open(encoding="utf-8")]
    ranked = {}
    for line in (home / file).open(encoding="utf-8"):
        ranked |= json.loads(line)
    scores = score(data, data.dev, [tuple(ranked[i]) for i in ids])
    assert [round(scores[name], 2) for name in METRICS] == numbers


@pytest.mark.data
def test_cases_of_the_evaluator(real_data):
    cases = json.loads((real_data / "more/commonsense/protoqa/metric_cases.json").read_text("utf-8"))
    for case in cases:
        target = tuple((count, (answer,)) for answer, count in case["clusters"].items())
        for key, limits in {"max_incorrect_3": (None, 3), "max_answers_1": (1, None)}.items():
            if case[key] is not None:
                assert reached(target, case["predictions"], exact, *limits) == pytest.approx(case[key], abs=1e-5)


@pytest.mark.data
def test_every_gold_list_comes_back(task_config, real_data):
    data = load_task(task_config("protoqa"), real_data)
    for row in (*data.train, *data.dev):
        wanted = tuple(answers[0].rstrip(". ") for _, answers in row.target)
        assert ANSWERS.parse(ANSWERS.write(row.target, data, "words"), data, "words") == wanted
        assert ANSWERS.parse(ANSWERS.write(row.target, data, "paper"), data, "paper") == wanted[:1]


REPLIES = [("I like tea.", "i like, tea"), ("Tea", "I like it"), None]


def test_diversity_by_hand():
    """Words 1: i like tea | i like tea | (one word) | i like it; pairs: i_like like_tea | i_like | i_like like_it."""
    distinct = {n: ANSWERS.metrics[f"distinct_{n}"] for n in (1, 2)}
    given_answers = Answers([TEN] * 3, REPLIES)
    assert distinct[1](given_answers) == pytest.approx(4 / 9)
    assert distinct[2](given_answers) == pytest.approx(3 / 5)
    assert ANSWERS.metrics["distinct_answers"](Answers([TEN] * 2, [("a", "A ", "b"), ("c",)])) == pytest.approx(3 / 4)
    target = ((1, ("i like tea",)), (1, ("no way",)))
    closest = ANSWERS.metrics["f1_closest"](Answers([target] * 2, [("I like it", "no"), None]))
    assert closest == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_diversity_of_resampled_rows_is_that_of_the_rows():
    draws = random.Random(3)
    answers = [
        [tuple(" ".join(draws.choices(list("abcdef"), k=4)) for _ in range(2)) for _ in range(8)] for _ in range(2)
    ]
    items = Items(tuple([TEN] * 8), problem="answers")
    metric, (mine, others) = ANSWERS.metrics["distinct_2"], (scorer("distinct_2", items, a) for a in answers)
    assert mine.score() == pytest.approx(100 * metric(Answers([], answers[0])))
    chosen = np.array([[0, 0, 1, 2, 3, 3, 3, 5], [7, 6, 5, 4, 3, 2, 1, 0]])
    again = [100 * metric(Answers([], [answers[0][i] for i in row])) for row in chosen]
    assert mine.resampled(Resamples(chosen)) == pytest.approx(again)
    swap = np.array([[True] * 8, [False] * 7 + [True]])
    exchanged = [answers[1], answers[0][:7] + answers[1][7:]]
    assert mine.swapped(others, swap)[0] == pytest.approx([100 * metric(Answers([], a)) for a in exchanged])
    back = [answers[0], answers[1][:7] + answers[0][7:]]
    assert mine.swapped(others, swap)[1] == pytest.approx([100 * metric(Answers([], a)) for a in back])


@pytest.mark.data
def test_the_published_replies_of_possibility_exploration(task_config, real_data):
    data = load_task(task_config("dialogues"), real_data)
    assert (len(data.train), len(data.test)) == (1000, 300)
    assert {len(row.target) for row in (*data.train, *data.test)} == {10}
    file = real_data / "more/dialogue/possibility_exploration/sample_output.jsonl"
    replies = [tuple(json.loads(line)["preds"]) for line in file.open(encoding="utf-8")]
    words = [len(reply.split()) for row in replies for reply in row]
    assert sum(words) / len(words) == pytest.approx(17.98, abs=0.005)
    scores = score(data, data.test, replies)
    assert scores["distinct_answers"] == 100
    assert 0 < scores["distinct_1"] < scores["distinct_2"] < 100
