"""Answers under the influence of an n-gram model: of a style, or one of each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from peftbench.errors import UsageError
from peftbench.formulations.base import Prediction
from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.formulations.in_words import TextFormulation
from peftbench.inference.base import Ask, Inference
from peftbench.inference.ngram_bias.counts import NgramModel
from peftbench.learner import Learner
from peftbench.tasks.base import Row


class NgramBias(Inference):
    """Biases the logits of what is written, or the scores of labels; `ngram_bias.yaml` says how."""

    def __init__(self, cfg: Any, learner: Learner) -> None:
        super().__init__(cfg, learner)
        formulation = learner.formulation
        assert isinstance(formulation, TextFormulation)
        self.formulation = formulation
        self.writes = isinstance(formulation, GenerateFormulation)
        self.size = len(formulation.tokenizer)
        self.needs_shots = cfg.file is None
        if self.writes:
            self.style = self._model(self._texts())
        else:
            self.classes = {
                label: self._model([row.whole for row in formulation.shots if row.target == label])
                for label in formulation.task.labels
            }

    def _texts(self) -> list[str]:
        """Of the style: the lines of the file, or what the drawn rows answer."""
        if self.cfg.file is None:
            return [self.formulation.row_answer(row) for row in self.formulation.shots]
        lines = Path(self.cfg.file).read_text(encoding="utf-8", errors="replace").split("\n")
        if not any(line.strip() for line in lines):
            raise UsageError(f"method.inference.file={self.cfg.file}: has no text in it.")
        return [line for line in lines if line.strip()]

    def ids_of(self, text: str) -> list[int]:
        """A text in the model's tokens, as it stands behind something."""
        return self.formulation.ids_of(f" {text.strip()}")

    def _model(self, texts: Sequence[str]) -> NgramModel:
        return NgramModel([self.ids_of(text) for text in texts], self.cfg.orders, self.cfg.smoothing, self.size)

    def answer(self, rows: Sequence[Row], ask: Ask) -> list[Prediction]:
        if not self.writes:
            return [self._moved(row, plain) for row, plain in zip(rows, ask(rows), strict=True)]
        formulation = self.formulation
        assert isinstance(formulation, GenerateFormulation)
        before = formulation.more_processors
        formulation.more_processors = lambda batch: [StyleBias(self)]
        try:
            return ask(rows)
        finally:
            formulation.more_processors = before

    def _moved(self, row: Row, plain: Prediction) -> Prediction:
        """A row's answer after each label's score has moved by the row's n-grams in its class."""
        ids = self.ids_of(row.whole)
        scores = {
            label: score + self.cfg.weight * self.classes[label].log_likelihood(ids) / max(len(ids), 1)
            for label, score in plain.scores.items()
        }
        best = max(scores, key=scores.__getitem__)
        self.sums["moved"] += best != plain.label
        return replace(plain, label=best, scores=scores)

    def facts(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Where labels are scored, `moved`: answers that are other than plain ones. Where answers are written, over all
        tokens: `divergence`, the mean Jensen-Shannon divergence (nats, at most ln 2) of the distributions with and
        without the bias; `same_token`, the share with the same likeliest one."""
        if not self.writes:
            return {"moved": sums.get("moved", 0)}
        count = max(sums.get("steps", 0), 1)
        return {"divergence": sums.get("divergence", 0) / count, "same_token": sums.get("same", 0) / count}


class StyleBias(LogitsProcessor):
    """Adds weight x the n-gram model's bias to the logits of each row. The prompt in front of an answer is no context:
    n-grams begin with the answer."""

    def __init__(self, owner: NgramBias) -> None:
        self.owner, self.start = owner, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.start = input_ids.shape[1] if self.start < 0 else self.start
        biases = []
        for ids in input_ids[:, self.start :].tolist():
            bias = torch.zeros(scores.shape[-1])
            bias[: self.owner.size] = torch.from_numpy(self.owner.style.bias(ids)).float()
            biases.append(bias)
        moved = scores + self.owner.cfg.weight * torch.stack(biases).to(scores)
        going = [self.owner.formulation.eos not in ids for ids in input_ids[:, self.start :].tolist()]
        self._measure(scores[going], moved[going])
        return moved

    def _measure(self, plain: Tensor, moved: Tensor) -> None:
        sums = self.owner.sums
        sums["steps"] += len(plain)
        sums["divergence"] += float(jensen_shannon(plain, moved).sum())  # type: ignore[assignment]
        sums["same"] += int((plain.argmax(-1) == moved.argmax(-1)).sum())


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """(rows,) divergence in nats, 0 to ln 2, of the distributions that two (rows, vocabulary) logits stand for."""
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    return ((p.exp() * (p - middle)).nansum(-1) + (q.exp() * (q - middle)).nansum(-1)) / 2
