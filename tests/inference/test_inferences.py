"""What every inference promises: at its neutral setting it is plain to the bit, it leaves the weights alone, and the
answer to a row depends on that row. What one more inference needs is a line in `CASES`."""

from __future__ import annotations

from typing import Any

import pytest
from asking import drawn
from made_up_configs import compose
from tiers import rest_slow
from tiny_answers import texts

import peftbench
from peftbench.config import registry
from peftbench.errors import UsageError
from peftbench.inputs import InputCache

SCORE = ("model=tiny-llama", "method=lora", "method/formulation=score")
TEXT = ("model=tiny-llama", "method=lora", "method/formulation=generate")
ICL = ("model=tiny-llama", "method=icl", "method.k=2")
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "ngram_bias of labels": ("ngram_bias", {"weight": 0.0}, {"weight": 2.0}, SCORE),
    "hidden states": ("hidden_state_optimisation", {"steps": 0}, {"steps": 2, "rate": 0.1}, ICL),
    "hidden states of demonstrations": (
        "hidden_state_optimisation",
        {"rate": 0.0},
        {"rate": 0.1, "loss_on": "demo_labels", "layers": "last_half"},
        ICL,
    ),
    "hidden states behind a soft prompt": (
        "hidden_state_optimisation",
        {"rate": 0.0},
        {"rate": 0.1},
        (*SCORE, "method=prompt_tuning"),
    ),
    "vote of samples": ("vote", {"samples": 1}, {"samples": 3, "temperature": 2.0}, TEXT),
    "vote of prompts": ("vote", {"samples": 1}, {"samples": 1, "prompts": [0, 1]}, ICL),
    "vote behind evidence": (
        "vote",
        {"samples": 1},
        {"samples": 2, "evidence": "knowledge", "evidence_tokens": 4},
        SCORE,
    ),
    "conjugate labels": ("conjugate", {"transform": "none"}, {"transform": "leetspeak"}, ICL),
    "conjugate words": ("conjugate", {"transform": "none"}, {"transform": "pig_latin"}, TEXT),
    "conditional beams": (
        "conditional_beam_search",
        {"beams": 1, "weight": 0.0},
        {"beams": 3, "weight": 0.0, "candidates": 6},
        TEXT,
    ),
    "beams of a length": (
        "conditional_beam_search",
        {"beams": 1, "weight": 0.0},
        {"attribute": "length", "length": 2},
        TEXT,
    ),
    "ngram_bias of text": ("ngram_bias", {"weight": 0.0}, {"weight": 50.0}, TEXT),
}
"""Inference, options at which it is plain, options at which it is not, and a learner."""

FAST = ("ngram_bias of labels", "hidden states", "vote of samples", "conjugate labels", "conditional beams")


def test_every_inference_is_among_the_cases() -> None:
    assert {name for name, *_ in CASES.values()} == registry.built_in("inference") - {"plain"}


@pytest.mark.parametrize("case", rest_slow(CASES, FAST))
def test_the_neutral_setting_is_plain_to_the_bit_and_has_no_name(case: str) -> None:
    name, neutral, _, overrides = CASES[case]
    own = drawn(name, neutral, *overrides)
    assert own.answer(texts()) == own.ask(texts())
    given = [f"method.inference.{key}={value}" for key, value in neutral.items()]
    assert compose([*overrides, f"method/inference={name}", *given]).method.inference is None


@pytest.mark.parametrize("case", rest_slow(CASES, FAST))
def test_weights_are_left_alone_and_a_row_is_answered_by_itself(case: str) -> None:
    name, _, options, overrides = CASES[case]
    own = drawn(name, options, *overrides)
    before, plain = own.fingerprint(), own.ask(texts())
    there = own.answer(texts())
    back = own.answer(texts()[::-1])[::-1]
    assert own.fingerprint() == before
    assert own.ask(texts()) == plain, "nothing of it stays behind"
    for one, other in zip(there, back, strict=True):
        assert (one.label, one.answer) == (other.label, other.answer)
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    assert there != plain


REFUSED = [
    (["method=lora", "model=tiny-bert"], "does not fit an encoder backbone"),
    (["method=lora", "model=tiny-llama", "method/formulation=head"], "Use method/formulation=score"),
    (["method=tfidf_lr"], "has none. Use plain"),
    (["method=lora", "model=tiny-llama", "task=sequence", "task.of=[sst2,rte]"], "is a sequence"),
    (["method=zero_shot", "model=tiny-llama", "shots=0"], "Give some shots"),
    (["method=lora", "model=tiny-llama", "method.inference.file=absent.txt"], "no such file"),
]


VOTE = ["method=lora", "model=tiny-llama", "method/inference=vote"]
REFUSED_VOTES = [
    (["method/formulation=score"], "the likeliest label is the same each time"),
    (["method/formulation=generate", "method.inference.prompts=[1]"], "are numbers of written prompts"),
    (["method/formulation=prompted", "method.inference.prompts=[2]"], "has 2 prompts"),
    (["method/formulation=generate", "task=stsb"], "several regression answers do not make one"),
    (["method/formulation=generate", "method.inference.cluster=embedding"], "is for rankings"),
    (["method/formulation=generate", "method.formulation.sample=true", "method.formulation.samples=2"], "by itself"),
    (["method/formulation=generate", "method.inference.evidence=facts"], "not a valid choice"),
]
HIDDEN = ["method=icl", "model=tiny-llama", "method/inference=hidden_state_optimisation"]
REFUSED_HIDDEN = [
    (["method.formulation.by=generate"], "has nothing to draw from where answers are by text"),
    (["model=tiny-t5"], "does not fit a seq2seq backbone"),
    (["method.k=0", "method.inference.loss_on=demo_labels"], "needs demonstrations in a plain prompt"),
]


OTHER = ["method=icl", "model=tiny-llama", "method/inference=conjugate"]
REFUSED_FORMS = [
    (["method.inference.transform=rescale"], "is for numbers"),
    (["task=stsb", "method.inference.transform=pig_latin"], "is for numbers"),
    (["task=stsb", "method.k=0", "method.inference.transform=rescale"], "none are shown"),
    (["method.inference.transform=parallel"], "no such file"),
    (["method.inference.transform=leet"], "not a valid choice"),
    (["method.inference.transform=leetspeak", "method.inference.prompts=plan"], "no such set"),
]
BEAMS = ["method=lora", "model=tiny-llama", "method/inference=conditional_beam_search"]
REFUSED_BEAMS = [
    (["method/formulation=score"], "has nothing to draw from where answers are by score"),
    (["method.formulation.constrain=labels", "method/formulation=generate"], "chooses the tokens"),
    (["method.inference.attribute=length"], "a number of tokens belongs"),
    (["method.inference.length=3"], "a number of tokens belongs"),
    (["method=zero_shot", "method.formulation.by=generate", "shots=0"], "shots=0 draws none"),
]
EVERY_REFUSAL = [
    *(([*BEAMS, *overrides], words) for overrides, words in REFUSED_BEAMS),
    *(([*overrides, "method/inference=ngram_bias"], words) for overrides, words in REFUSED),
    *(([*VOTE, *overrides], words) for overrides, words in REFUSED_VOTES),
    *(([*HIDDEN, *overrides], words) for overrides, words in REFUSED_HIDDEN),
    *(([*OTHER, *overrides], words) for overrides, words in REFUSED_FORMS),
]


@pytest.mark.parametrize(("overrides", "words"), EVERY_REFUSAL)
def test_what_cannot_be_drawn_from_is_refused_when_it_is_composed(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compose(overrides)


def test_plain_is_in_no_name() -> None:
    base = ["method=lora", "model=tiny-llama", "task=demo_news", "method/formulation=score"]
    ids = [InputCache().run_id(compose([*base, *more])) for more in (
        [], ["method/inference=plain"], ["method/inference=ngram_bias", "method.inference.weight=0"],
        ["method/inference=ngram_bias"], ["method/inference=ngram_bias", "method.inference.weight=0.2"])]  # fmt: skip
    assert ids[0] == ids[1] == ids[2] != ids[3] != ids[4]


def test_a_trained_run_is_asked_again_and_named(tmp_path: Any) -> None:
    """The same run as if it had been trained for this; what is saved of it answers as it did."""
    given = ["model=tiny-llama", "task=demo_news", "shots=2", "trainer.steps=2", "method/formulation=score",
             "protocol.test_rows=21", "protocol.dev=none", "trainer.probe=false", f"out_dir={tmp_path}"]  # fmt: skip
    chosen = ["method/inference=ngram_bias", "method.inference.weight=3"]
    parent = peftbench.run(*given, method="lora")
    own = parent.infer(*chosen)
    facts = own.record.inference
    assert (facts["parent"], facts["name"], facts["rows"]) == (parent.run_id, "ngram_bias", 21)
    assert facts["each"]["own"]["flops"] >= facts["each"]["plain"]["flops"] > 0
    assert own.record.compute["steps"] == 0
    assert own.score != parent.score
    trained = peftbench.run(*given, *chosen, "rerun=true", method="lora")
    assert trained.run_id == own.run_id
    assert "parent" not in trained.record.inference
    assert trained.record.predictions["sha256"] == own.record.predictions["sha256"]
    assert trained.predict(["Rain tomorrow."]) == own.predict(["Rain tomorrow."])
    with pytest.raises(UsageError, match="a trained run is as it is"):
        parent.infer(*chosen, "seed=3")
    with pytest.raises(UsageError, match="changes nothing"):
        parent.infer("method/inference=plain")
