"""Answers constrained to tuples: what the grammar lets through, and that a network cannot write anything else."""

from __future__ import annotations

import itertools

import pytest

import peftbench
from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.models import load_backbone
from peftbench.records.predictions import read_predictions
from peftbench.tasks.tuple_formats import TupleForm, format_of, grammar_of

POLARITIES = ("positive", "negative", "neutral")
PAIR = TupleForm(("aspect", "polarity"), {"polarity": POLARITIES})
QUAD = TupleForm(
    ("aspect", "category", "polarity", "opinion"), {"polarity": POLARITIES}, {"category": ("food quality", "service")}
)


@pytest.fixture(scope="module")
def lets_through():
    """Whether the grammar of a text and a form lets a whole answer through."""
    pytest.importorskip("llguidance")
    from llguidance import LLMatcher

    from peftbench.formulations.generate.decoding import guided_tokenizer

    tokenizer = load_backbone(compose(["model=tiny-llama"]).model, "lm").tokenizer
    guided = guided_tokenizer(tokenizer, tokenizer.eos_token_id)

    def ask(style: str, form: TupleForm, text: str, answer: str) -> bool:
        matcher = LLMatcher(guided, grammar_of(style, form, text, " "))
        ids = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        assert not matcher.is_error(), matcher.get_error()
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return ask


@pytest.mark.parametrize("style", ["words", "paper"])
def test_spans_of_the_text_and_known_polarities_pass_and_nothing_else(lets_through, style):
    text = 'the "big" food \\ , fine'
    words = text.split()
    spans = {" ".join(words[a:b]) for a, b in itertools.combinations(range(len(words) + 1), 2)}
    write = format_of(style, PAIR).write
    for span in sorted(spans):
        assert lets_through(style, PAIR, text, write([(span, "neutral")], PAIR)), span
    others = {"the food", "bi", '"big', "ig", "Food", "food fine", "wine", "the  food", "food ", " food", "NULL", ""}
    for other in sorted(others - spans):
        assert not lets_through(style, PAIR, text, write([(other, "neutral")], PAIR)), other
    assert not lets_through(style, PAIR, text, write([("food", "good")], PAIR))
    for whole in ([], [("food", "positive"), ('"big" food', "negative"), ("food", "positive")]):
        assert lets_through(style, PAIR, text, write(whole, PAIR))


@pytest.mark.parametrize("style", ["words", "paper"])
def test_quadruples_may_be_implicit_and_have_known_categories(lets_through, style):
    from dataclasses import replace

    form = replace(QUAD, paper="paraphrase")
    write = format_of(style, form).write
    text = "good food"
    assert lets_through(style, form, text, write([("NULL", "service", "positive", "good")], form))
    assert lets_through(style, form, text, write([("food", "food quality", "negative", "good food")] * 2, form))
    assert not lets_through(style, form, text, write([("food", "prices", "negative", "good")], form))
    single = TupleForm(("opinion",))
    assert lets_through("words", single, text, '["good", "good food"]')
    assert not lets_through("words", single, text, '[["good"]]')


LINES = "good fresh food####[([2], [0], 'POS')]\nno {} thing####[([2], [0], 'NEG')]\n"
TASK = ("task=absa", "task.subtask=aste", "task.domain=rest15", "tracking.wandb=disabled", "protocol.dev=none")


@pytest.fixture
def reviews(tmp_path):
    folder = tmp_path / "data" / "absa" / "aste" / "rest15"
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (folder / f"{split}_triplets.txt").write_text(LINES.format(split), "utf-8")
    return f"data_dir={tmp_path / 'data'}"


@pytest.mark.parametrize(("model", "method"), [("tiny-llama", "prompt_tuning"), ("tiny-t5", "lora")])
def test_an_untrained_network_names_words_of_the_text_alone(reviews, tmp_path, model, method):
    pytest.importorskip("llguidance")
    run = peftbench.run(
        *TASK, reviews, "shots=1", "trainer.steps=1", "method/formulation=generate", "method.formulation.sample=true",
        "method.formulation.constrain=tuples", "method.formulation.answer_tokens=60", "trainer.max_length=160",
        method=method, model=model, out_dir=tmp_path / "out",
    )  # fmt: skip
    assert any("constrained to tuples" in note for note in run.record.notes)
    items = read_predictions(run.folder / "predictions.jsonl")
    texts = {"test:0": "good fresh food", "test:1": "no test thing"}
    for item in items:
        assert item.answer.lstrip().startswith("[")
        for aspect, opinion, polarity in item.prediction or ():
            assert {aspect in texts[item.id], opinion in texts[item.id], polarity in POLARITIES} == {True}


def test_without_the_package_or_tuples_it_is_refused(reviews, tmp_path, monkeypatch):
    constrained = "method.formulation.constrain=tuples"
    with monkeypatch.context() as patch:
        patch.setattr("peftbench.formulations.generate.find_spec", lambda name: None)
        for method in ("lora", "icl"):
            with pytest.raises(UsageError, match=r'needs llguidance: pip install "peftbench\[constrained\]"'):
                compose(
                    [
                        f"method={method}",
                        "model=tiny-llama",
                        constrained,
                        *(["method/formulation=generate"] * (method == "lora")),
                    ]
                )
    pytest.importorskip("llguidance")
    with pytest.raises(UsageError, match=r"constrain=tuples: the task asks for no tuples"):
        peftbench.run(
            "task=demo_news", "shots=1", constrained, "method/formulation=generate", "tracking.wandb=disabled",
            method="lora", model="tiny-llama", out_dir=tmp_path,
        )  # fmt: skip
