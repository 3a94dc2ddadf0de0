"""Token bookkeeping that has nothing to do with a network."""

import torch

from peftbench.formulations.generate import new_tokens, normalise
from peftbench.formulations.head import pool
from peftbench.formulations.text import format_score, pad


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
    assert [format_score(v) for v in (0, 3.1, 3.25, 5)] == ["0.0", "3.2", "3.2", "5.0"]
