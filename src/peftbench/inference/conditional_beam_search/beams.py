"""Beam search for one prompt, with a say for an attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peftbench.formulations.scoring import Read
from peftbench.models.architecture import accepts

OfPrefixes = Callable[[Tensor], Tensor]
"""(prefixes, d) hidden states behind prefixes -> (prefixes,) log-probabilities of the attribute."""
OfAnswer = Callable[[list[int]], bool]
"""Token ids of a finished answer, its end left out -> whether it has the attribute."""


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        beams, candidates, weight: as in `conditional_beam_search.yaml`.
        most: tokens of an answer at most, its end included.
        end: the end-of-sequence token.
        length: tokens of an answer, its end left out, where that is asked for.
    """

    beams: int
    candidates: int
    weight: float
    most: int
    end: int
    length: int | None = None


@dataclass(frozen=True)
class Found:
    """An answer: its ids without its end; log p of them and, if it has ended, of the end; the score it was kept by."""

    ids: tuple[int, ...]
    log_p: float
    score: float
    ended: bool


class Beams:
    """Searches behind a prompt that was read; what is cached of it is repeated and reordered with the beams.

    Args:
        read: a single prompt (`formulations.scoring.read_prompts`).
    """

    def __init__(self, read: Read, settings: Settings, of_prefixes: OfPrefixes, of_answer: OfAnswer) -> None:
        self.read, self.settings = read, settings
        self.of_prefixes, self.of_answer = of_prefixes, of_answer

    def best(self) -> Found:
        """The answer with the best score: of those that have ended, and of those that reach the most tokens."""
        s, device = self.settings, self.read.mask.device
        running = [Found((), 0.0, 0.0, ended=False)]
        logits, done = self.read.first[:, -1], list[Found]()
        for step in range(s.most):
            totals = torch.tensor([r.log_p for r in running], device=device)[:, None] + logits.float().log_softmax(-1)
            if s.length is not None:
                self._hold_to_length(totals, step, s.length)
            count = min(max(s.candidates, 2 * s.beams), totals.numel())
            values, places = totals.flatten().topk(count)
            allowed = values > float("-inf")
            values, places = values[allowed], places[allowed]
            owners, tokens = places // totals.shape[1], places % totals.shape[1]
            grown, states, logits = self._grown(running, values, owners, tokens, step)
            order = sorted(range(len(grown)), key=lambda n: -grown[n].score)
            done += [grown[n] for n in order[: s.beams] if grown[n].ended and grown[n].score > float("-inf")]
            kept = [n for n in order if not grown[n].ended][: s.beams]
            running = [grown[n] for n in kept]
            done = sorted(done, key=lambda found: -found.score)[: s.beams]
            if not running or (len(done) == s.beams and done[-1].score >= running[0].score):
                break
            chosen = torch.tensor([states[n] for n in kept], device=device)
            self.read.cache.batch_select_indices(chosen)
            logits = logits[chosen]
        return max([*done, *running], key=lambda found: found.score)

    def _hold_to_length(self, totals: Tensor, step: int, length: int) -> None:
        """No end before so many tokens, and nothing else after them."""
        end = self.settings.end
        if step < length:
            totals[:, end] = float("-inf")
        else:
            ends = totals[:, end].clone()
            totals.fill_(float("-inf"))
            totals[:, end] = ends

    def _grown(
        self, running: list[Found], values: Tensor, owners: Tensor, tokens: Tensor, step: int
    ) -> tuple[list[Found], dict[int, int], Tensor]:
        """The candidates with their scores; of those that go on, their places in the cache, which from now on holds
        them alone, and the logits behind them."""
        s = self.settings
        on = [n for n, token in enumerate(tokens.tolist()) if token != s.end]
        states = {n: place for place, n in enumerate(on)}
        has, logits = torch.zeros(len(on)), values.new_zeros(0)
        if on:
            hidden, logits = self._read_on(owners[on], tokens[on], step)
            has = self.of_prefixes(hidden) if s.weight else torch.zeros(len(on))
        found = []
        for n, (value, owner, token) in enumerate(zip(values.tolist(), owners.tolist(), tokens.tolist(), strict=True)):
            before = running[owner].ids
            if token == s.end:
                right = not s.weight or self.of_answer(list(before))
                found.append(Found(before, value, value if right else float("-inf"), ended=True))
            else:
                score = value + s.weight * float(has[states[n]]) if s.weight else value
                found.append(Found((*before, token), value, score, ended=False))
        return found, states, logits

    def _read_on(self, owners: Tensor, tokens: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Hidden states (prefixes, d) and logits (prefixes, vocabulary) behind each of the running ones and a token."""
        read = self.read
        read.cache.batch_select_indices(owners)
        count = len(tokens)
        mask = torch.cat([read.mask.expand(count, -1), read.mask.new_ones(count, step + 1)], dim=1)
        given: dict[str, Any] = {"input_ids": tokens[:, None], "attention_mask": mask}
        if accepts(read.network, "position_ids"):
            given["position_ids"] = mask.long().sum(1, keepdim=True) - 1
        out = read.model(**given, past_key_values=read.cache, use_cache=True, output_hidden_states=True)
        read.cache = out.past_key_values
        return out.hidden_states[-1][:, -1].float(), out.logits[:, -1]
