"""Token bookkeeping that has nothing to do with a network."""

from types import SimpleNamespace

import pytest
import torch

from peftbench.errors import UsageError
from peftbench.formulations.fitting import Cut, fit_texts, token_ends
from peftbench.formulations.generate.formulation import new_tokens
from peftbench.formulations.in_words import check_answers
from peftbench.formulations.pooling import pool
from peftbench.formulations.reading import normalise, read_table
from peftbench.formulations.text import pad
from peftbench.tasks.problems import kind


def test_pooling_ignores_padding_on_either_side():
    hidden = torch.randn(2, 5, 3)
    right = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    left = right.flip(1)
    torch.testing.assert_close(pool(hidden, right, "mean")[0], hidden[0, :3].mean(0))
    torch.testing.assert_close(pool(hidden, left, "mean")[0], hidden[0, 2:].mean(0))
    torch.testing.assert_close(pool(hidden, right, "cls")[0], hidden[0, 0])
    torch.testing.assert_close(pool(hidden, left, "cls")[0], hidden[0, 2])
    torch.testing.assert_close(pool(hidden, right, "last")[0], hidden[0, 2])
    torch.testing.assert_close(pool(hidden, left, "last")[0], hidden[0, 4])


def test_pad_sides():
    assert pad([[1, 2], [3]], 0, "right").tolist() == [[1, 2], [3, 0]]
    assert pad([[1, 2], [3]], 0, "left").tolist() == [[1, 2], [0, 3]]


def test_new_tokens_with_and_without_the_prompt_repeated():
    prompt = torch.tensor([[5, 6], [7, 8]])
    answer = torch.tensor([[1, 2, 3], [1, 2, 4]])
    assert torch.equal(new_tokens(torch.cat([prompt, answer], 1), prompt), answer)
    assert torch.equal(new_tokens(answer, prompt), answer)


def test_answers_are_compared_without_case_spaces_and_final_stop():
    assert normalise("  Sports. ") == normalise("sports")
    assert normalise("sports news") != normalise("sports")


def test_scores_are_written_in_steps_of_a_fifth():
    scored = kind("regression").write
    assert [scored(v, None, "words") for v in (0, 2.5, 3.1, 3.25, 5)] == ["0.0", "2.4", "3.2", "3.2", "5.0"]
    # DePT's code: np.round((score * 5) / 5, decimals=1)
    assert [scored(v, None, "digits") for v in (0, 2.5, 3.1, 3.25, 5)] == ["0.0", "2.5", "3.1", "3.2", "5.0"]
    named = SimpleNamespace(labels=("entailment", "not_entailment"), label_words={})
    assert [kind("classification").write(v, named, "digits") for v in named.labels] == ["0", "1"]


def test_answers_that_differ_in_case_are_told_apart_and_else_case_is_forgiven():
    table = read_table({"a": "Good", "b": "good", "c": "No."})
    assert (table.get("Good"), table.get("good"), table.get("GOOD")) == ("a", "b", None)
    assert table[normalise("NO")] == table["No."] == "c"
    assert read_table({"a": "No", "b": "No."}) == {"No": "a", "No.": "b"}


@pytest.mark.parametrize(
    ("ids", "texts", "words"),
    [
        ({"a": [7, 1], "b": [0, 1]}, {"a": "yes", "b": ""}, "does not know the label word `no`"),
        ({"a": [7, 1], "b": [8, 1]}, {"a": "yes", "b": "yes"}, "are the same answer, `yes`"),
    ],
)
def test_label_words_that_the_tokenizer_does_not_tell_apart_are_refused(ids, texts, words):
    with pytest.raises(UsageError, match=words):
        check_answers({"a": "yes", "b": "no"}, ids, texts, 0, "toy")


class _Words:
    """A tokenizer in pure Python: a token a word."""

    is_fast = False

    def __call__(self, text, **_):
        return {"input_ids": text.split()}


def _whole(texts):
    return " ".join(f"{name}: {text}" for name, text in texts.items()).split()


def test_the_longest_text_gives_way_wherever_it_stands():
    texts = {"paragraph": "p " * 50, "question": "who was it", "answer": "the cat"}
    fitted, cut = fit_texts(texts, _whole, 20, _Words())
    assert len(_whole(fitted)) == 20
    assert (fitted["question"], fitted["answer"], cut) == ("who was it", "the cat", Cut.SHORTENED)
    assert fit_texts(texts, _whole, 60, _Words()) == (texts, Cut.WHOLE)
    last, cut = fit_texts({"a": "x " * 9, "b": "y"}, _whole, 11, _Words(), "last")
    assert (last["b"], cut) == ("", Cut.EMPTIED)


def test_no_room_for_any_text_is_said():
    with pytest.raises(UsageError, match=r"trainer\.max_length to 4 or more"):
        fit_texts({"a": "x", "b": "y"}, _whole, 1, _Words())


def test_a_tokenizer_that_does_not_say_where_tokens_end_is_asked_word_by_word():
    assert token_ends(_Words(), "one  two three", 2) == [5, 9]
