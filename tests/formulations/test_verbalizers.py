"""Verbalizers against the formulas of their papers, computed again with numpy in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.errors import UsageError
from peftbench.formulations.verbalizers import (
    KnowledgeableVerbalizer,
    MeanVerbalizer,
    SoftVerbalizer,
    WordScores,
)

V = 50
IDS = [[[3], [4, 5], [6]], [[7, 8, 9]], [[10], [11, 12]]]
"""Three classes of three, one and two words, some of several tokens."""
SCORES = [[1.0, 0.9, 0.55], [1.0], [1.0, 0.6]]


def vocabulary(rows: int = 4, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


def word_values(scores: np.ndarray, ids=IDS) -> np.ndarray:
    """(rows, classes, most words): mean over tokens; -10000 where there is no word, as in the released code."""
    most = max(len(own) for own in ids)
    out = np.full((len(scores), len(ids), most), -10000.0)
    for c, own in enumerate(ids):
        for w, pieces in enumerate(own):
            out[:, c, w] = scores[:, pieces].mean(1)
    return out


def softmax_over_all(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    e = np.exp(flat - flat.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True)).reshape(values.shape)


def expected(scores: torch.Tensor, weights=None, prior: torch.Tensor | None = None, ids=IDS) -> np.ndarray:
    """SciPrompt's class logits by its specification, steps 3 to 6; KPT's with equal weights."""
    p = softmax_over_all(word_values(scores.double().numpy(), ids))
    if prior is not None:
        p = p / (softmax_over_all(word_values(prior.double().numpy()[None], ids)) + 1e-15)
        p = p / p.sum((1, 2), keepdims=True)
    out = np.zeros(p.shape[:2])
    for c, own in enumerate(ids):
        a = np.exp(np.array(weights[c] if weights else [0.0] * len(own)))
        out[:, c] = (np.log(p[:, c, : len(own)] + 1e-15) * a / a.sum()).sum(1)
    return out


@pytest.mark.parametrize("weights", [None, SCORES])
@pytest.mark.parametrize("with_prior", [False, True])
def test_class_logits_equal_the_formulas(weights, with_prior):
    verbalizer = KnowledgeableVerbalizer(IDS, weights, calibrated=with_prior)
    prior = vocabulary(1, seed=9)
    if with_prior:
        assert verbalizer.calibrate(prior, drop=0.0) == 0
    scores = vocabulary()
    want = expected(scores, weights, prior[0] if with_prior else None)
    np.testing.assert_allclose(verbalizer(scores).numpy(), want, rtol=2e-5, atol=2e-5)


def test_a_very_unlikely_word_counts_as_the_formula_says():
    """log(P + 1e-15) has a floor at -34.5; without it one hopeless word would decide."""
    scores = torch.zeros(1, V)
    scores[0, 6] = -200.0
    got = KnowledgeableVerbalizer(IDS, SCORES)(scores)
    np.testing.assert_allclose(got.numpy(), expected(scores, SCORES), rtol=1e-5)
    assert got.min() > math.log(1e-15)


def test_equal_scores_give_the_mean_and_a_dominating_one_its_word():
    scores = vocabulary()
    equal = KnowledgeableVerbalizer(IDS, [[0.7] * len(own) for own in IDS])(scores)
    torch.testing.assert_close(equal, KnowledgeableVerbalizer(IDS, None)(scores))
    one = KnowledgeableVerbalizer(IDS, [[0.0, 80.0, 0.0], [1.0], [80.0, 0.0]])
    logs = one.log_probabilities(scores)
    torch.testing.assert_close(one(scores), torch.stack([logs[:, 0, 1], logs[:, 1, 0], logs[:, 2, 0]], dim=1))


def test_scores_between_a_half_and_one_weigh_mildly():
    weights = torch.tensor(SCORES[0]).softmax(0)
    assert weights.max() / weights.min() <= math.exp(0.5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 20.0), drop=st.sampled_from([0.0, 0.3, 0.9]))
def test_probabilities_sum_to_one_before_and_after_calibration(seed, spread, drop):
    scores = vocabulary(3, seed, spread)
    verbalizer = KnowledgeableVerbalizer(IDS, SCORES, calibrated=True)
    verbalizer.calibrate(vocabulary(2, seed + 1, spread), drop)
    plain = KnowledgeableVerbalizer(IDS, SCORES)
    for each in (verbalizer, plain):
        p = (each.log_probabilities(scores).exp() - 1e-15) * each.words_kept
        torch.testing.assert_close(p.sum((1, 2)), torch.ones(3))
    assert (verbalizer.log_probabilities(scores)[:, ~verbalizer.words_kept] < math.log(2e-15)).all()


def test_a_uniform_prior_is_the_identity():
    verbalizer = KnowledgeableVerbalizer(IDS, SCORES, calibrated=True)
    verbalizer.calibrate(torch.full((1, V), 2.5), drop=0.0)
    scores = vocabulary()
    torch.testing.assert_close(verbalizer(scores), KnowledgeableVerbalizer(IDS, SCORES)(scores))


def test_a_prior_of_several_inputs_is_their_mean_probability():
    """Contextual calibration (Zhao et al. 2021) averages probabilities, KPT scores."""
    inputs = vocabulary(3, seed=5)
    verbalizer = KnowledgeableVerbalizer(IDS, None, calibrated=True)
    verbalizer.calibrate(inputs, drop=0.0)
    mean = softmax_over_all(word_values(inputs.double().numpy())).mean(0)
    there = verbalizer.words.mask.numpy()
    np.testing.assert_allclose(verbalizer.prior.exp().numpy()[there], mean[there], rtol=1e-5)


def test_after_contextual_calibration_an_input_without_content_favours_no_word():
    verbalizer = KnowledgeableVerbalizer(IDS, None, calibrated=True)
    inputs = vocabulary(1, seed=3)
    verbalizer.calibrate(inputs, drop=0.0)
    logs = verbalizer.log_probabilities(inputs)[0][verbalizer.words.mask]
    torch.testing.assert_close(logs, torch.full_like(logs, -math.log(6)), rtol=1e-4, atol=1e-4)


def test_one_word_a_class_is_the_manual_verbalizer():
    ids = [[[3]], [[7, 8]], [[10]]]
    scores = vocabulary(20)
    manual = MeanVerbalizer(ids)(scores)
    knowledgeable = KnowledgeableVerbalizer(ids, None)(scores)
    torch.testing.assert_close(manual.softmax(-1), knowledgeable.softmax(-1))
    weighted = KnowledgeableVerbalizer(ids, [[1.0], [0.6], [0.8]])(scores)
    assert torch.equal(manual.argsort(dim=-1), weighted.argsort(dim=-1))


def test_class_scores_do_not_change_with_a_constant_on_all_the_vocabulary():
    scores, constant = vocabulary(), torch.tensor([[5.0], [-7.0], [0.5], [100.0]])
    for verbalizer in (MeanVerbalizer(IDS), KnowledgeableVerbalizer(IDS, SCORES)):
        torch.testing.assert_close(
            verbalizer(scores).softmax(-1), verbalizer(scores + constant).softmax(-1), rtol=1e-3, atol=1e-5
        )


def test_padding_never_counts():
    """The class of one word beside classes of three: its score is that word's alone, whatever token 0 scores."""
    scores = vocabulary()
    changed = scores.clone()
    changed[:, 0] = 50.0
    for verbalizer in (MeanVerbalizer(IDS), KnowledgeableVerbalizer(IDS, SCORES)):
        torch.testing.assert_close(verbalizer(scores), verbalizer(changed))
    torch.testing.assert_close(MeanVerbalizer(IDS)(scores)[:, 1], scores[:, [7, 8, 9]].mean(1))


def test_unlikely_words_go_with_their_scores_and_a_class_keeps_its_name():
    prior = torch.arange(V, dtype=torch.float32)  # the lowest 0.2 are the tokens 0 to 9
    verbalizer = KnowledgeableVerbalizer(IDS, SCORES, calibrated=True)
    assert verbalizer.calibrate(prior[None], drop=0.2) == 2
    assert verbalizer.words_kept.tolist() == [[True, False, False], [True, False, False], [True, True, False]]
    scores = vocabulary()
    kept_ids = [[[3]], [[7, 8, 9]], [[10], [11, 12]]]
    want = expected(scores, [[1.0], [1.0], [1.0, 0.6]], prior, kept_ids)
    np.testing.assert_allclose(verbalizer(scores).numpy(), want, rtol=2e-5, atol=2e-5)


def test_a_word_goes_if_any_of_its_tokens_is_unlikely():
    prior = torch.ones(V)
    prior[[5, 12]] = -1.0
    kept = WordScores(IDS).likely(prior, drop=2 / V)
    assert kept.tolist() == [[True, False, True], [True, False, False], [True, False, False]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), drop=st.floats(0.0, 0.99))
def test_a_class_never_loses_all_its_words(seed, drop):
    kept = WordScores(IDS).likely(vocabulary(1, seed)[0], drop)
    assert kept.any(-1).all()
    assert not (kept & ~WordScores(IDS).mask).any()


def test_a_prior_that_was_never_measured_is_an_error():
    with pytest.raises(UsageError, match=r"no prior yet.*method.stages=\[calibration,supervised\]"):
        KnowledgeableVerbalizer(IDS, None, calibrated=True)(vocabulary())


def test_learned_weights_get_the_gradient_of_the_formula():
    verbalizer = KnowledgeableVerbalizer(IDS, SCORES, learn=True, calibrated=True)
    verbalizer.calibrate(vocabulary(1, seed=8), drop=0.2)
    scores = vocabulary()
    verbalizer(scores)[:, 0].sum().backward()
    gradient = verbalizer.scores.grad
    assert gradient is not None
    assert (gradient[~verbalizer.words_kept] == 0).all(), "what is no word has no weight to learn"
    step = 1e-2
    for c, w in verbalizer.words_kept.nonzero().tolist():
        values = []
        for sign in (1, -1):
            moved = KnowledgeableVerbalizer(IDS, SCORES, calibrated=True)
            moved.calibrate(vocabulary(1, seed=8), drop=0.2)
            moved.scores[c, w] += sign * step
            values.append(moved(scores)[:, 0].sum())
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[c, w].item() == pytest.approx(slope.item(), abs=5e-2)


def test_gradients_are_finite_where_words_are_removed():
    scores = vocabulary().requires_grad_()
    verbalizer = KnowledgeableVerbalizer(IDS, SCORES, learn=True, calibrated=True)
    verbalizer.calibrate(vocabulary(1), drop=0.9)
    verbalizer(scores).sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert torch.isfinite(verbalizer.scores.grad).all()


@pytest.mark.parametrize("drop", [None, 0.2])
def test_the_soft_variant_starts_from_the_weighted_vectors_of_its_words(drop):
    width = 6
    matrix = torch.randn(V, width, generator=torch.Generator().manual_seed(4))
    soft = SoftVerbalizer(IDS, SCORES, width)
    kept = None if drop is None else soft.words.likely(torch.arange(V).float(), drop)
    soft.start(matrix, kept)
    use = soft.words.mask if kept is None else kept
    for c, own in enumerate(IDS):
        chosen = [w for w in range(len(own)) if use[c, w]]
        row = sum(SCORES[c][w] * matrix[own[w]].double().numpy().mean(0) for w in chosen) / len(chosen)
        np.testing.assert_allclose(soft.classes.weight[c].detach().numpy(), row, rtol=1e-5, atol=1e-6)
    hidden = torch.randn(3, width)
    torch.testing.assert_close(soft(hidden), hidden @ soft.classes.weight.T)
    assert [p.shape for p in soft.parameters()] == [(3, width)], "classes * width parameters, no bias"


def test_half_precision_scores_change_little():
    scores = vocabulary()
    verbalizer = KnowledgeableVerbalizer(IDS, SCORES)
    with torch.autocast("cpu", torch.bfloat16):
        half = verbalizer(scores.to(torch.bfloat16).float())
    assert half.dtype == torch.float32
    assert (half - verbalizer(scores)).abs().max() < 0.2
