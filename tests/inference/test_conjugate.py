"""Other forms of texts can be undone; rows are asked in them and answers put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asking import drawn, shots
from hypothesis import given
from hypothesis import strategies as st
from test_inferences import ICL, TEXT
from tiny_answers import task, texts

from peftbench.errors import UsageError
from peftbench.formulations.base import Prediction
from peftbench.inference.conjugate.regression import errors
from peftbench.inference.conjugate.transforms import CIPHERS, Leetspeak, Parallel, PigLatin
from peftbench.tasks.base import Row

LETTERS = st.one_of(st.characters(), st.sampled_from("abcesty47^-AEIy \n"))


@pytest.mark.parametrize("cipher", CIPHERS)
@given(text=st.text(alphabet=LETTERS, max_size=40))
def test_a_cipher_gives_every_text_back(cipher: str, text: str) -> None:
    transform = CIPHERS[cipher]()
    assert transform.undo(transform.do(text)) == text
    assert transform.is_image(transform.do(text))


def test_ciphers_by_hand() -> None:
    assert Leetspeak().do("The 4 best ^ sites") == "Th3 ^4 b357 ^^ 51735"
    assert PigLatin().do("Quick apples, by the well-day") == "ick-Quay apples-ay, by-ay e-thay ell-way-ay-day"
    assert not PigLatin().is_image("The team")


def test_given_texts_are_undone_and_what_is_not_given_is_named() -> None:
    french = Parallel({"sports": "le sport", "health": "la santé"}, "fr.jsonl")
    assert french.undo(french.do("health")) == "health"
    assert french.undo("la politique") == "la politique"
    assert (french.is_image(" le sport"), french.is_image("la politique")) == (True, False)
    with pytest.raises(UsageError, match="has no line for the text `politics`"):
        french.do("politics")
    with pytest.raises(UsageError, match="cannot be undone"):
        Parallel({"sports": "le sport", "sport": "le sport"}, "fr.jsonl")


def test_rows_demonstrations_and_label_words_are_in_the_other_form() -> None:
    """The scores are those of the prompt that is written so by hand."""
    own = drawn("conjugate", {"transform": "leetspeak"}, *ICL)
    do, labels = Leetspeak().do, own.net.formulation.task.labels
    there = own.answer(texts())
    other = own.inference._other
    assert other.formulation.texts == {label: do(label) for label in labels}
    for row, found in zip(texts(), there, strict=True):
        plain = str(own.net.encode([row])[0].data["prompt_text"])
        shown = [one for one in shots() if one.text in plain]
        assert len(shown) == 2
        by_hand = plain
        for part in ("Answer with one of: ", *labels, row.text, *(one.text for one in shown)):
            by_hand = by_hand.replace(part, do(part))
        item = other.encode([own.inference.moved(row)])[0]
        assert item.data["prompt_text"] == by_hand
        answers = [own.net.formulation.answer_ids(do(label)) for label in labels]
        teacher = other.formulation.teacher_batch([item.data["prompt"]] * len(labels), answers)
        logs = -other.formulation.token_losses(own.net.model, teacher).detach().sum(1)
        for label, answer, expected in zip(labels, answers, logs.tolist(), strict=True):
            assert found.scores[label] == pytest.approx(expected / len(answer), abs=1e-4)


def test_written_texts_are_put_back_and_strange_ones_counted() -> None:
    data = task((), problem="text", main_metric="exact_match", metrics=("exact_match",))
    own = drawn("conjugate", {"transform": "pig_latin"}, *TEXT, data=data)
    found = [own.inference._back(Prediction("test:0", label)) for label in ("e-thay eam-tay", "the team", None)]
    assert [p.label for p in found] == ["the team", "the team", None]
    assert own.inference.facts(own.inference.sums) == {"outside": pytest.approx(1 / 3)}


def test_numbers_of_demonstrations_are_rescaled_and_the_answer_is_put_back() -> None:
    data = task((), problem="regression", score_range=(0.0, 5.0), main_metric="pearson", metrics=("pearson",))
    own = drawn("conjugate", {"transform": "rescale", "factor": 4.0}, "model=tiny-llama", "method=icl", "method.k=2",
                data=data)  # fmt: skip
    row = own.inference.moved(Row("train:0", "a", 1.5))
    assert (row.target, row.text) == (6.0, "a")
    assert own.inference._task().score_range == (0.0, 20.0)
    assert own.inference._back(Prediction("test:0", 6.0)).label == 1.5


def test_parallel_texts_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    every = [*(row.text for row in (*texts(), *shots())), "health", "politics", "sports"]
    path.write_text("".join(json.dumps({"text": t, "other": f"{t} xy"}) + "\n" for t in every), encoding="utf-8")
    own = drawn("conjugate", {"transform": "parallel", "file": str(path)}, *ICL)
    assert {p.label for p in own.answer(texts())} <= {"health", "politics", "sports"}
    path.write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="line 1"):
        drawn("conjugate", {"transform": "parallel", "file": str(path)}, *ICL)


def test_the_linear_regression_of_the_paper() -> None:
    """Worked out independently by 2,000 draws with a drawn next x: squared errors 23.1, 16.6, 15.3, 15.0, ridge 15.0,
    posterior 0.62, 0.24, 0.09, 0.01; alpha = 0.5 adds 0.6 to ridge's. Ours takes the mean over the next x."""
    found = errors(factors=(1.0, 1.5, 2.0, 3.0), draws=800)
    assert [row.error for row in found.rows] == pytest.approx([23.1, 16.6, 15.3, 15.0], abs=1.6)
    assert [row.posterior for row in found.rows] == pytest.approx([0.62, 0.24, 0.09, 0.01], abs=0.05)
    assert found.ridge == pytest.approx(15.0, abs=0.8)
    assert found.rows[-1].error == pytest.approx(found.ridge, abs=0.1)
    assert (found.rows[0].error - found.rows[2].error) / (found.rows[0].error - found.ridge) > 0.93
    mild = errors(factors=(1.0,), alpha=0.5, draws=800).rows[0].error
    assert mild - found.ridge == pytest.approx(0.6, abs=0.3)
