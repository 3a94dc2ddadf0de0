"""Verbalizers: from the scores of the whole vocabulary at the mask to one score a class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peftbench.errors import UsageError

LOG_EPSILON = math.log(1e-15)
"""KPT's code adds 1e-15 to a probability before it divides by it or takes its logarithm."""

WordIds = Sequence[Sequence[Sequence[int]]]
"""For each class, for each of its words, the ids of the word's tokens."""


class WordScores(nn.Module):
    """(batch, vocabulary) scores -> (batch, classes, words): each word's score is the mean over its tokens, or, with
    `first`, that of its first one.

    Classes with fewer words than others are padded; `mask` (classes, words) is False there and the score 0.
    """

    token_ids: Tensor
    token_mask: Tensor

    def __init__(self, ids: WordIds, first: bool = False) -> None:
        super().__init__()
        self.first = first
        most, longest = max(map(len, ids)), max(len(pieces) for own in ids for pieces in own)
        shape = (len(ids), most, longest)
        token_ids, token_mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        for c, own in enumerate(ids):
            for w, pieces in enumerate(own):
                token_ids[c, w, : len(pieces)] = torch.tensor(pieces)
                token_mask[c, w, : len(pieces)] = True
        self.register_buffer("token_ids", token_ids, persistent=False)
        self.register_buffer("token_mask", token_mask, persistent=False)

    @property
    def mask(self) -> Tensor:
        """(classes, words): where there is a word."""
        return self.token_mask.any(-1)

    def forward(self, scores: Tensor) -> Tensor:
        if self.first:
            return scores[:, self.token_ids[..., 0]] * self.mask
        picked = scores[:, self.token_ids] * self.token_mask
        return picked.sum(-1) / self.token_mask.sum(-1).clamp(min=1)

    def likely(self, scores: Tensor, drop: float) -> Tensor:
        """(classes, words): the words that stay when those go that have a token in the lowest `drop` of the vocabulary.

        A class that would lose all its words keeps its first, its name (the released SciPrompt code would divide by 0).

        Args:
            scores: (vocabulary,).
            drop: share of the vocabulary, below 1.
        """
        lowest = torch.zeros_like(scores, dtype=torch.bool)
        lowest[scores.argsort(stable=True)[: int(drop * len(scores))]] = True
        kept = self.mask & ~(lowest[self.token_ids] & self.token_mask).any(-1)
        kept[~kept.any(-1), 0] = True
        return kept


class MeanVerbalizer(nn.Module):
    """PET's: a class's score is the mean score of its words (2001.07676, section 3.1; several words: its code)."""

    def __init__(self, ids: WordIds, first: bool = False) -> None:
        super().__init__()
        self.words = WordScores(ids, first)

    def forward(self, scores: Tensor) -> Tensor:
        """(batch, vocabulary) -> (batch, classes)."""
        return self.words(scores).sum(-1) / self.words.mask.sum(-1)


class KnowledgeableVerbalizer(nn.Module):
    """Many words a class: KPT (Hu et al. 2022, arXiv 2108.02035) and, with scores, SciPrompt (arXiv 2410.01946).

    P is the softmax over all words of all classes together, P0 the prior. With calibration P is divided by P0 and
    normalised again. A class's score is the mean of log P over its words, weighted by the softmax of its words' scores:
    equal scores give KPT's plain mean.

    Args:
        ids: the words' tokens.
        scores: for each class a score for each word; None weighs all alike.
        learn: whether the scores are trained with the rest.
        calibrated: whether P is divided by a prior, which `calibrate` must have measured before the first use.
        first: whether a word's score is that of its first token instead of their mean.
    """

    words_kept: Tensor
    prior: Tensor
    scores: Tensor

    def __init__(
        self,
        ids: WordIds,
        scores: Sequence[Sequence[float]] | None,
        *,
        learn: bool = False,
        calibrated: bool = False,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.words, self.calibrated = WordScores(ids, first), calibrated
        mask = self.words.mask
        given = torch.zeros(mask.shape)
        for c, own in enumerate(scores or ()):
            given[c, : len(own)] = torch.tensor(own)
        if learn:
            self.scores = nn.Parameter(given)
        else:
            self.register_buffer("scores", given, persistent=False)
        self.register_buffer("words_kept", mask.clone(), persistent=calibrated)
        self.register_buffer("prior", torch.full(mask.shape, math.nan), persistent=calibrated)
        self._ready = not calibrated

    def forward(self, scores: Tensor) -> Tensor:
        """(batch, vocabulary) -> (batch, classes).

        Raises:
            UsageError: there is no prior yet.
        """
        return (self.weights() * self.log_probabilities(scores)).sum(-1)

    def weights(self) -> Tensor:
        """(classes, words): what each word counts in its class; 0 for one that was removed."""
        return self._masked(self.scores).softmax(-1)

    def log_prior(self) -> Tensor:
        """(classes, words): log P0, normalised over the words that are kept."""
        return self._normalised(self.prior[None])[0]

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """(batch, vocabulary) -> (batch, classes, words): log(P + 1e-15), the words that were removed at its floor."""
        log_p = self._normalised(self.words(scores))
        if self.calibrated:
            self._check_ready()
            floor = torch.full_like(self.prior, LOG_EPSILON)
            log_p = self._normalised(log_p - torch.logaddexp(self.log_prior(), floor))
        return torch.logaddexp(log_p, torch.full_like(log_p, LOG_EPSILON))

    @torch.no_grad()
    def calibrate(self, scores: Tensor, drop: float) -> int:
        """Take the prior from (inputs, vocabulary) scores at the mask: the mean of P over the inputs.

        The mean scores of many texts, given as one input, are KPT's prior; several inputs without content are those of
        contextual calibration (Zhao et al. 2021, arXiv 2102.09690).

        Returns:
            How many words were removed because a token of theirs is in the least likely `drop` of the vocabulary.
        """
        self.words_kept.copy_(self.words.mask)
        log_p = self._normalised(self.words(scores))
        self.prior.copy_(log_p.logsumexp(0) - math.log(len(scores)))
        self.words_kept.copy_(self.words.likely(scores.mean(0), drop))
        return int(self.words.mask.sum() - self.words_kept.sum())

    def _masked(self, values: Tensor) -> Tensor:
        return values.masked_fill(~self.words_kept, -math.inf)

    def _normalised(self, values: Tensor) -> Tensor:
        """(batch, classes, words) -> the same, as logarithms of probabilities over all words that are kept."""
        return self._masked(values).flatten(1).log_softmax(-1).view_as(values)

    def _check_ready(self) -> None:
        self._ready = self._ready or not bool(self.prior.isnan().any())
        if not self._ready:
            raise UsageError(
                "method.formulation.calibration: there is no prior yet. The stage `calibration` has to run before any "
                "other that builds a learner, e.g. 'method.stages=[calibration,supervised]'."
            )


class SoftVerbalizer(nn.Module):
    """SciPrompt's soft variant: a linear map without bias from the hidden state at the mask to the classes.

    Row c starts as sum_j a_cj mean(E_wcj) / n_c: the rows of the vocabulary matrix E of each word's tokens, averaged,
    times the word's score. It takes the place of the masked-LM head's last layer and is trained.
    """

    scores: Tensor

    def __init__(self, ids: WordIds, scores: Sequence[Sequence[float]], width: int) -> None:
        super().__init__()
        self.words = WordScores(ids)
        given = torch.zeros(self.words.mask.shape)
        for c, own in enumerate(scores):
            given[c, : len(own)] = torch.tensor(own)
        self.register_buffer("scores", given, persistent=False)
        self.classes = nn.Linear(width, len(ids), bias=False)

    @torch.no_grad()
    def start(self, matrix: Tensor, kept: Tensor | None = None) -> None:
        """Set the rows from the (vocabulary, width) output matrix and the (classes, words) words that are kept."""
        mask = self.words.mask if kept is None else kept
        rows = matrix[self.words.token_ids] * self.words.token_mask[..., None]
        vectors = rows.sum(2) / self.words.token_mask.sum(-1, keepdim=True).clamp(min=1)
        weights = self.scores * mask
        self.classes.weight.copy_((weights[..., None] * vectors).sum(1) / mask.sum(-1, keepdim=True))

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, width) -> (batch, classes), fp32 whatever the backbone's precision."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.classes(hidden.float())
        return logits


Verbalizer = MeanVerbalizer | KnowledgeableVerbalizer | SoftVerbalizer
