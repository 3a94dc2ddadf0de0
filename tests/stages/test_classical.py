"""The floors on data that scikit-learn refuses: one class, and texts without a word."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from peftbench.config import compose
from peftbench.measure.clock import PhaseClock
from peftbench.stages.classical.floors import classical
from peftbench.tasks.base import Row


@pytest.fixture(scope="module")
def cfg():
    return compose(["method=tfidf_lr"])


def fitted(cfg, *rows):
    rows = [Row(f"train:{i}", text, target) for i, (text, target) in enumerate(rows)]
    context = SimpleNamespace(
        cfg=cfg,
        draw=SimpleNamespace(train=rows, dev=()),
        data=SimpleNamespace(problem="classification"),
        clock=PhaseClock(),
        meter=SimpleNamespace(phase=lambda name: nullcontext()),
        reports=[],
    )
    return classical(context, None)


def answers(predictor, *texts):
    return [p.label for p in predictor.predict([Row(f"test:{i}", text, None) for i, text in enumerate(texts)])]


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
