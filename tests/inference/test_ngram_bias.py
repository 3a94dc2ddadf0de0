"""N-gram models against counts by hand, and the bias against what the formula says."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from asking import drawn
from test_inferences import SCORE, TEXT
from tiny_answers import texts

from peftbench.inference.ngram_bias.bias import StyleBias, jensen_shannon
from peftbench.inference.ngram_bias.counts import NgramModel

CORPUS = [[1, 2, 3, 1, 2, 4], [1, 2, 3]]
WEIGHTS, K, SIZE = (0.2, 0.3, 0.5), 0.1, 6


def by_hand(before: list[int], n: int) -> np.ndarray | None:
    """p_n over the vocabulary; None if the context was never seen."""
    context = before[len(before) - n + 1 :]
    if len(before) < n - 1:
        return None
    found = Counter(
        s[i + n - 1] for s in CORPUS for i in range(len(s) - n + 1) if s[i : i + n - 1] == list(context)
    )  # fmt: skip
    total = sum(found.values())
    return np.array([(found[v] + K) / (total + K * SIZE) for v in range(SIZE)]) if total else None


@pytest.mark.parametrize("before", [[], [1], [2], [1, 2], [5, 2], [3, 1, 2], [0, 0]])
def test_probabilities_are_those_of_the_formula(before: list[int]) -> None:
    model = NgramModel(CORPUS, WEIGHTS, K, SIZE)
    orders = {n: p for n in (1, 2, 3) if (p := by_hand(before, n)) is not None}
    assert all(p.sum() == pytest.approx(1) for p in orders.values())
    expected = sum((WEIGHTS[n - 1] * np.log(p) for n, p in orders.items()), np.zeros(SIZE))
    np.testing.assert_allclose(model.bias(before), expected, rtol=1e-12)
    share = sum(WEIGHTS[n - 1] for n in orders)
    mixed = sum(WEIGHTS[n - 1] * p for n, p in orders.items()) / share
    assert model.log_likelihood([*before, 3]) - model.log_likelihood(before) == pytest.approx(math.log(mixed[3]))


def test_perplexity_is_of_the_mean_over_tokens_and_lowest_for_the_corpus() -> None:
    model = NgramModel(CORPUS, WEIGHTS, K, SIZE)
    logs = [model.log_likelihood(s) for s in CORPUS]
    assert model.perplexity(CORPUS) == pytest.approx(math.exp(-sum(logs) / 9))
    assert model.perplexity(CORPUS) < model.perplexity([[5, 0, 4, 4, 0]]) < SIZE * 10
    assert NgramModel([], WEIGHTS, K, SIZE).perplexity([[1, 2]]) == pytest.approx(SIZE)


def test_divergence_is_that_of_the_definition_and_grows_with_the_weight() -> None:
    torch.manual_seed(0)
    plain, bias = torch.randn(2, 50), 3 * torch.randn(50)
    p, q = plain.double().softmax(-1), (plain + bias).double().softmax(-1)
    middle = (p + q) / 2
    expected = ((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1)) / 2
    torch.testing.assert_close(jensen_shannon(plain, plain + bias), expected, rtol=0, atol=1e-12)
    grown = [float(jensen_shannon(plain, plain + weight * bias).mean()) for weight in (0, 0.1, 0.5, 1, 100)]
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (0, pytest.approx(math.log(2), abs=0.1))
    apart = torch.tensor([[0.0, float("-inf")]]), torch.tensor([[float("-inf"), 0.0]])
    assert float(jensen_shannon(*apart)) == pytest.approx(math.log(2))


def test_of_text_the_weighted_bias_stands_on_the_logits_behind_what_was_written() -> None:
    own = drawn("ngram_bias", {"weight": 0.7}, *TEXT)
    ids = [own.inference.ids_of(label) for label in ("sports", "politics")]
    processor, size = StyleBias(own.inference), own.inference.size
    torch.manual_seed(0)
    prompt, logits = torch.randint(5, (1, 4)), torch.randn(1, size)
    first = processor(prompt, logits)
    style = own.inference.style
    torch.testing.assert_close(first, logits + 0.7 * torch.tensor(style.bias([])).float())
    behind = torch.cat([prompt, torch.tensor([ids[0][:1]])], dim=1)
    torch.testing.assert_close(processor(behind, logits), logits + 0.7 * torch.tensor(style.bias(ids[0][:1])).float())


def test_of_labels_each_class_adds_the_mean_log_probability_of_the_row() -> None:
    own = drawn("ngram_bias", {"weight": 0.5}, *SCORE)
    for row, plain, moved in zip(texts(), own.ask(texts()), own.answer(texts()), strict=True):
        ids = own.inference.ids_of(row.text)
        for label, score in plain.scores.items():
            prior = own.inference.classes[label].log_likelihood(ids) / len(ids)
            assert moved.scores[label] == pytest.approx(score + 0.5 * prior)
        assert moved.label == max(moved.scores, key=lambda label: moved.scores[label])
