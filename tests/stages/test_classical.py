"""The floors: each model fitted, saved and loaded; features; and data that scikit-learn refuses."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_configs import compose
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier

from peftbench.errors import UsageError
from peftbench.measure.clock import PhaseClock
from peftbench.stages.classical.constant import Mean, MostFrequent
from peftbench.stages.classical.estimators import ESTIMATORS
from peftbench.stages.classical.floors import check, classical, unfitted
from peftbench.stages.classical.word_vectors import read_vectors
from peftbench.tasks import load_task
from peftbench.tasks.base import Row

TOPICS = {
    "sports": ["the team won the match", "a goal in the last minute", "the match ended", "a team of eleven"],
    "health": ["the clinic gives a vaccine", "a doctor and a nurse", "the vaccine works", "a nurse at the clinic"],
    "money": ["the bank raised its rate", "a market for shares", "the rate of the bank", "shares at the market"],
}
TRAIN = tuple((text, label) for label, texts in TOPICS.items() for text in texts)
NEW = ("the nurse of the clinic", "a bank and a market", "the team has a goal")
COUNTS = {"features": "counts", "word_ngrams": [], "char_ngrams": [1, 3]}


@pytest.fixture(scope="module")
def cfg():
    return compose(["method=tfidf_lr"])


def options(**given):
    """Those of method=tfidf_lr with others in their place."""
    cfg = compose(["method=tfidf_lr"])
    return replace(cfg, method=replace(cfg.method, classical=replace(cfg.method.classical, **given)))


def context_of(cfg, rows, dev=(), problem="classification"):
    return SimpleNamespace(
        cfg=cfg,
        draw=SimpleNamespace(train=rows, dev=dev),
        data=SimpleNamespace(problem=problem, name="made_up"),
        clock=PhaseClock(),
        meter=SimpleNamespace(phase=lambda name: nullcontext()),
        reports=[],
        dev_score=lambda predictor: 0.0,
    )


def rows_of(*pairs):
    return [Row(f"train:{i}", text, target) for i, (text, target) in enumerate(pairs)]


def fitted(cfg, *rows, **more):
    return classical(context_of(cfg, rows_of(*rows), **more), None)


def answers(predictor, *texts):
    return [p.label for p in predictor.predict([Row(f"test:{i}", text, None) for i, text in enumerate(texts)])]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("problem", ["classification", "regression"])
def test_every_model_answers_after_loading_as_it_did(tmp_path, estimator, problem):
    cfg = options(estimator=estimator, trees=3, hidden=30, max_iter=300, **COUNTS)
    places = {label: float(i) for i, label in enumerate(TOPICS)}
    rows = [(t, places[y] if problem == "regression" else y) for t, y in TRAIN]
    if problem == "regression" and ESTIMATORS[estimator].regressor is None:
        with pytest.raises(UsageError, match="These know scores: majority, logistic"):
            check(context_of(cfg, rows_of(*rows), problem=problem))
        return
    context = context_of(cfg, rows_of(*rows), problem=problem)
    check(context)
    predictor = classical(context, None)
    new = [Row(f"test:{i}", text, None) for i, text in enumerate(NEW)]
    before = predictor.predict(new)
    if problem == "classification" and estimator not in ("majority", "svm", "boosted_trees"):
        assert [p.label for p in before] == ["health", "money", "sports"]
    predictor.save(tmp_path)
    loaded = unfitted(context)
    loaded.load(tmp_path)
    for old, again in zip(before, loaded.predict(new), strict=True):
        assert again.scores == pytest.approx(old.scores, abs=1e-12)
        assert again.label == (pytest.approx(old.label) if problem == "regression" else old.label)


def test_counts_and_models_are_those_of_the_released_script():
    """`sklearn-models.py` of the MasakhaNEWS repository, its steps one after the other."""
    texts, labels = zip(*TRAIN, strict=True)
    vectorizer = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3)).fit([*texts, "unseen words of dev"])
    train, new = vectorizer.transform(texts).toarray(), vectorizer.transform(NEW).toarray()
    dev = [Row("dev:0", "unseen words of dev", None)]
    for name, model in {"naive_bayes": MultinomialNB(), "gaussian_naive_bayes": GaussianNB(),
                        "neighbours": KNeighborsClassifier(3)}.items():  # fmt: skip
        ours = fitted(options(estimator=name, vocabulary="train+dev", **COUNTS), *TRAIN, dev=dev)
        wanted = model.fit(train, labels).predict_proba(new)
        given = ours.predict([Row(f"test:{i}", text, None) for i, text in enumerate(NEW)])
        assert np.allclose([list(p.scores.values()) for p in given], wanted)


@pytest.mark.parametrize("seed", range(3))
def test_the_constant_answers_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    matrix, names = np.zeros((50, 1)), np.array(["b", "a", "other"])[rng.integers(0, 3, 50)]
    ours, theirs = MostFrequent(), DummyClassifier(strategy="most_frequent")
    for targets in (names, np.array(["b", "a", "b", "a", "c"])):  # of two that are as frequent, the first by name
        ours.fit(matrix[: len(targets)], targets)
        theirs.fit(matrix[: len(targets)], targets)
        assert ours.predict(matrix).tolist() == theirs.predict(matrix).tolist()
        assert ours.predict_proba(matrix).tolist() == theirs.predict_proba(matrix).tolist()
        assert ours.classes_.tolist() == theirs.classes_.tolist()
    scores, mean = rng.normal(size=50), Mean()
    mean.fit(matrix, scores)
    assert mean.predict(matrix).tolist() == DummyRegressor().fit(matrix, scores).predict(matrix).tolist()


def test_parameters_of_the_network_are_the_papers_formula():
    ours = fitted(options(estimator="mlp", hidden=100, max_iter=2, **COUNTS), *TRAIN)
    columns = ours.estimator.n_features_in_
    assert ours.counts()["head"] == 100 * (columns + 1) + 3 * 101
    assert ours.remarks() == ["the solver stopped before it converged (max_iter=2)"]


def test_more_neighbours_than_rows_are_refused():
    with pytest.raises(UsageError, match=r"neighbours=13: the draw has 12 rows. Use 12 or fewer"):
        check(context_of(options(estimator="neighbours", neighbours=13), rows_of(*TRAIN)))


@pytest.mark.data
def test_amharic_headlines_score_near_the_released_notebook(real_data):
    """Its train file has 1,311 rows and the copy here 769, so that its scores (dev, weighted F1: multinomial 81.72,
    Gaussian 76.78) cannot be met; docs/floors.md has ours. scikit-learn by itself gives the same answers."""
    from sklearn.metrics import f1_score

    task = load_task(compose(["task=masakhanews", "task.lang=amh", "task.text=headline"]).task, real_data)
    texts, labels = [row.text for row in task.train], [row.target for row in task.train]
    vectorizer = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3)).fit([*texts, *(r.text for r in task.dev)])
    wanted = MultinomialNB().fit(vectorizer.transform(texts), labels)
    cfg = options(estimator="naive_bayes", vocabulary="train+dev", **COUNTS)
    ours = classical(context_of(cfg, task.train, dev=task.dev), None)
    given = [p.label for p in ours.predict(task.dev)]
    assert given == wanted.predict(vectorizer.transform([row.text for row in task.dev])).tolist()
    assert 100 * f1_score([row.target for row in task.dev], given, average="weighted") == pytest.approx(81.7, abs=4)


def test_word_vectors_are_averaged_over_the_words(tmp_path):
    """In its own case first, then in lower case; a text without a known word is zeros; a head line is passed over."""
    path = tmp_path / "some.vec"
    path.write_text("5 2\nteam 1 0\nTeam 3 0\nbank 0 1\nnurse -1 -1\n", encoding="utf-8")
    predictor = fitted(options(features="word_vectors", file=str(path)), ("Team", "a"), ("bank BANK", "b"))
    rows = [Row(str(i), text, None) for i, text in enumerate(("Team team bank", "BANK, nurse", "nothing"))]
    assert predictor.features.transform(rows) == pytest.approx(np.array([[4 / 3, 1 / 3], [-0.5, 0], [0, 0]]))
    assert predictor.features.remarks() == ["some.vec has a vector for 89 % of the words"]


@pytest.mark.parametrize(
    ("text", "told"),
    [("a 1 2\nb 1\n", "line 2: 1 numbers behind a word, not 2"), ("a 1 x\n", "line 1: could not convert"),
     ("a 1 nan\n", "line 1: a number is not finite"), ("", "has no vectors"), ("\udcff 1 2\n", "no UTF-8 text")],
)  # fmt: skip
def test_a_file_of_no_vectors_is_told_by_its_line(tmp_path, text, told):
    path = tmp_path / "bad.vec"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=told):
        list(read_vectors(path, {"a", "b"}))


def test_word_vectors_without_a_file_or_with_an_edited_one_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"method.classical.file: features=word_vectors need"):
        check(context_of(compose(["method=word_vectors"]), rows_of(*TRAIN)))
    with pytest.raises(UsageError, match="no such file"):
        compose(["method=word_vectors", f"method.classical.file={tmp_path}/none.vec"])


def test_one_class_is_the_answer_to_everything_and_said(cfg):
    predictor = fitted(cfg, ("a good film", "pos"), ("fine", "pos"))
    assert answers(predictor, "a bad film", "") == ["pos", "pos"]
    assert predictor.remarks() == ["train has one class, `pos`: it is the answer to everything"]


def test_texts_without_a_word_are_told_by_their_characters(cfg):
    predictor = fitted(
        cfg, ("\U0001f600!", "pos"), ("\U0001f600", "pos"), ("\U0001f620?", "neg"), ("\U0001f620", "neg")
    )
    assert answers(predictor, "\U0001f600", "\U0001f620") == ["pos", "neg"]
    assert predictor.remarks() == ["the train texts hold no words: features without them"]


def test_texts_without_anything_are_told_by_nothing(cfg):
    predictor = fitted(cfg, ("", "pos"), (" ", "pos"), ("", "neg"))
    assert answers(predictor, "a film") == ["pos"]
    assert predictor.remarks() == ["the train texts hold no words and no characters: features without them"]


@pytest.mark.slow
def test_four_shot_counts_and_five_draws_embed_each_text_once(tmp_path, monkeypatch):
    """At most 1.2 times one pass over all texts of the data set, told from the runs' own notes."""
    import re

    import peftbench

    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    fixed = ["method=frozen_lr", "model=tiny-bert", "task=demo_news", "trainer=debug", f"out_dir={tmp_path}"]
    runs = [peftbench.run(*fixed, f"shots={k}", f"data_seed={d}") for k in (1, 2, 5, 10) for d in range(1, 6)]
    notes = [note for run in runs for note in run.record.notes if "came from the cache" in note]
    counts = [tuple(map(int, re.findall(r"\d+", note)[:2])) for note in notes]
    data = load_task(compose(["task=demo_news"]).task, None)
    texts = {row.text for rows in (data.train, data.dev, data.test) for row in rows}
    assert len(counts) == 20
    computed = sum(all_ - cached for cached, all_ in counts)
    assert computed <= 1.2 * len(texts)
    assert sum(all_ for _, all_ in counts) > 5 * len(texts)  # which is what it would cost without the cache
