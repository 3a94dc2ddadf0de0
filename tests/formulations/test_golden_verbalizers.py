"""KPT's verbalizer against its formula, written out word by word: first token, shared words dropped, prior, drop."""

from __future__ import annotations

import math

import torch

from peftbench.formulations.label_words import LabelWords
from peftbench.formulations.verbalizers import KnowledgeableVerbalizer

WORDS = [[[3], [4, 5], [6]], [[7, 8], [9]], [[10, 11, 12], [13], [14], [15, 2]]]
"""Classes -> words -> tokens."""
VOCABULARY = 40


def by_hand(scores: list[float], mean_scores: list[float], weights: list[list[float]], drop: float) -> list[float]:
    """Class scores of one text: log(P / P0), P over the first tokens of all words that are kept, weighted."""
    order = sorted(range(VOCABULARY), key=lambda token: mean_scores[token])
    unlikely = set(order[: int(drop * VOCABULARY)])
    kept = [[w for w, pieces in enumerate(own) if not unlikely & set(pieces)] or [0] for own in WORDS]
    at = [(c, w) for c, own in enumerate(kept) for w in own]

    def normalised(values: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
        total = sum(values.values())
        return {place: value / total for place, value in values.items()}

    prior_over = [(c, w) for c, own in enumerate(WORDS) for w in range(len(own))]
    prior = normalised({(c, w): math.exp(mean_scores[WORDS[c][w][0]]) for c, w in prior_over})
    prior = normalised({place: prior[place] for place in at})
    p = normalised({(c, w): math.exp(scores[WORDS[c][w][0]]) for c, w in at})
    p = normalised({place: p[place] / (prior[place] + 1e-15) for place in at})
    found = []
    for c, own in enumerate(kept):
        powers = {w: math.exp(weights[c][w]) for w in own}
        found.append(sum(powers[w] / sum(powers.values()) * math.log(p[c, w] + 1e-15) for w in own))
    return found


def test_kpt_equals_its_formula_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    for drop in (0.0, 0.5):
        mean_scores, scores = torch.randn(VOCABULARY), torch.randn(5, VOCABULARY).double()
        verbalizer = KnowledgeableVerbalizer(WORDS, None, learn=True, calibrated=True, first=True).double()
        verbalizer.calibrate(mean_scores.double()[None], drop)
        with torch.no_grad():
            verbalizer.scores.normal_()
        weights = verbalizer.scores.detach().tolist()
        got = verbalizer(scores)
        expected = [by_hand(row.tolist(), mean_scores.double().tolist(), weights, drop) for row in scores]
        torch.testing.assert_close(got, torch.tensor(expected).double(), atol=1e-5, rtol=0)
        got[:, 2].sum().backward()
        for w in range(4):  # central differences of the sum over the texts
            moved = []
            for change in (1e-5, -1e-5):
                other = [list(own) for own in weights]
                other[2][w] += change
                means = mean_scores.double().tolist()
                moved.append(sum(by_hand(row.tolist(), means, other, drop)[2] for row in scores))
            assert verbalizer.scores.grad is not None
            assert abs(float(verbalizer.scores.grad[2, w]) - (moved[0] - moved[1]) / 2e-5) < 1e-5


def test_words_of_several_classes_are_dropped_from_all_and_a_class_keeps_its_name() -> None:
    given = {"law": [("law", 1.0), ("court", 0.8)], "sport": [("sport", 1.0), ("court", 0.7), ("goal", 0.5)]}
    words = LabelWords.of({**given, "x": [("goal", 1.0)]}, "here")
    kept = words.without_shared()
    assert kept.words == {"law": ("law",), "sport": ("sport",), "x": ("goal",)}
    assert kept.scores == {"law": (1.0,), "sport": (1.0,), "x": (1.0,)}
