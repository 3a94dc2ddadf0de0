"""Several paths to an answer: prompts x samples, behind evidence or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from peftbench.formulations import formulation_class
from peftbench.formulations.base import Prediction
from peftbench.formulations.bi_encoder import sentence_vectors
from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.formulations.in_words import TextFormulation
from peftbench.formulations.prompted import PromptedConfig
from peftbench.inference.base import Ask, Inference
from peftbench.inference.variants import variant
from peftbench.inference.vote import ANSWERS, NONE, WORDNET
from peftbench.inference.vote.pooling import Pooled, Same, rank, vote
from peftbench.learner import Learner
from peftbench.tasks.base import Row, bare_task
from peftbench.tasks.wordnet import matcher

ENCODER = "minilm"
"""The model by which `cluster=embedding` says what is near."""
EVIDENCE = {"knowledge": "{fields}\nA fact that helps to answer: {answer}", "chain": "{fields}\nStep by step: {answer}"}
"""The prompts that ask for evidence; ours. The first line that says something is the evidence."""


class Vote(Inference):
    """`vote.yaml` explains the options."""

    pools = True

    def __init__(self, cfg: Any, learner: Learner) -> None:
        super().__init__(cfg, learner)
        formulation = learner.formulation
        assert isinstance(formulation, TextFormulation)
        self.formulation = formulation
        self.sampled = isinstance(formulation, GenerateFormulation) and cfg.samples > 1
        self._variants: dict[int | None, Learner] = {}
        self._writer: Learner | None = None

    def answer(self, rows: Sequence[Row], ask: Ask) -> list[Prediction]:
        if not rows:
            return []
        asked = [self.evident(rows, ask, number) for number in range(self.cfg.samples)]
        paths = [
            self._path(asked[number], ask, prompt, number)
            for prompt in self.cfg.prompts or [None]
            for number in range(self.cfg.samples)
        ]
        if len(paths) == 1 and self.cfg.evidence == NONE:
            return paths[0]
        pairs = zip(zip(*asked, strict=True), zip(*paths, strict=True), strict=True)
        return [self._pooled(row, texts, own) for row, (texts, own) in zip(rows, pairs, strict=True)]

    def _path(self, rows: Sequence[Row], ask: Ask, prompt: int | None, number: int) -> list[Prediction]:
        """An answer to each row; as it is without an inference where one path is all that there is."""
        if prompt is None and not self.sampled:
            return ask(rows)
        learner = self._variant(prompt, rows[0], ask)
        formulation = learner.formulation
        if not isinstance(formulation, GenerateFormulation):
            return ask(rows, None, learner)
        return ask(rows, lambda batch: formulation.path(learner.model, batch, number), learner)

    def _variant(self, prompt: int | None, like: Row, ask: Ask) -> Learner:
        """The learner with another prompt, or with samples for answers."""
        if prompt not in self._variants:
            changes: dict[str, Any] = {} if prompt is None else {"prompt_number": prompt}
            if self.sampled:
                cfg = self.cfg
                changes |= {"sample": True, "temperature": cfg.temperature, "top_p": cfg.top_p, "sample_seed": cfg.seed}
            self._variants[prompt] = variant(self.learner, ask, like, **changes)
        return self._variants[prompt]

    def evident(self, rows: Sequence[Row], ask: Ask, number: int) -> list[Row]:
        """The rows with the `number`-th evidence in front of their texts."""
        if self.cfg.evidence == NONE:
            return list(rows)
        writer = self._evidence_writer()
        formulation = writer.formulation
        assert isinstance(formulation, GenerateFormulation)
        found = ask(rows, lambda batch: formulation.path(writer.model, batch, number), writer)
        self.sums["evidence"] += len(rows)
        self.sums["no_evidence"] += sum(p.label is None for p in found)
        return [self._in_front(row, str(p.label or "")) for row, p in zip(rows, found, strict=True)]

    def _evidence_writer(self) -> Learner:
        """The learner, asked for evidence: what it writes is a text."""
        if self._writer is None:
            cfg, own = self.cfg, self.formulation
            written = json.dumps({"prompts": [{"example": EVIDENCE[cfg.evidence]}]})
            options = PromptedConfig(
                name="prompted", by="generate", prompts=written, prompts_sha256=None, k=0, prompt=own.options.prompt,
                answer_tokens=cfg.evidence_tokens, sample=cfg.samples > 1, sample_seed=cfg.seed,
                temperature=cfg.temperature, top_p=cfg.top_p,
            )  # fmt: skip
            task = replace(bare_task(own.task), problem="text", labels=(), label_words={}, instruction="")
            made = formulation_class(options, self.learner.backbone.family, 0, "text")
            posed = made(self.learner.backbone, task, own.max_length, options)
            self._writer = self.learner.with_formulation(posed).eval()
        return self._writer

    def _in_front(self, row: Row, evidence: str) -> Row:
        """The row with the evidence in front of its first text."""
        if not evidence:
            return row
        first = self.formulation.task.fields[0]
        parts = dict(row.parts or {})
        if first in parts:
            parts[first] = f"{evidence}\n{parts[first]}"
        return replace(row, text=f"{evidence}\n{row.text}", parts=parts or None)

    def _pooled(self, row: Row, asked: Sequence[Row], paths: Sequence[Prediction]) -> Prediction:
        task = self.formulation.task
        if task.problem == ANSWERS:
            found = rank([p.label for p in paths], self._same(paths))  # type: ignore[misc]
        else:
            shares = [dict(zip(p.scores, _softmax(p.scores), strict=True)) for p in paths if p.scores]
            found = vote([None if p.label is None else str(p.label) for p in paths], task.labels, shares)
        self._count(found, paths)
        told: list[Any] = [p.label if p.answer is None else p.answer for p in paths]
        if self.cfg.evidence != NONE:
            evidence = [one.text.removesuffix(row.text).strip() for one in asked]
            told = [[evidence[n % len(evidence)], answer] for n, answer in enumerate(told)]
        return Prediction(row.id, found.answer, answer=json.dumps(told, ensure_ascii=False))

    def _same(self, paths: Sequence[Prediction]) -> Same:
        """Which answers of a row mean the same."""
        if self.cfg.cluster == NONE:
            return lambda one, other: False
        if self.cfg.cluster == WORDNET:
            return matcher()
        every = sorted({str(answer).lower() for p in paths for answer in (p.label or ())})  # type: ignore[union-attr]
        if not every:
            return lambda one, other: False
        vectors = dict(zip(every, sentence_vectors(ENCODER)(every), strict=True))
        near = {text[:50].strip(): vector for text, vector in vectors.items()}  # as `answers.plain` has them
        return lambda one, other: float(near[one] @ near[other]) >= self.cfg.threshold

    def _count(self, found: Pooled, paths: Sequence[Prediction]) -> None:
        self.sums["rows"] += 1
        self.sums["paths"] += len(paths)
        self.sums["invalid"] += sum(p.label is None for p in paths)
        self.sums["tied"] += found.tied
        self.sums["agreement"] += found.share  # type: ignore[assignment]

    def facts(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`paths` of a row; `agreement`, the mean share of them that say what was answered; `ties`, the share of rows
        whose answer has an equal; `invalid`, the share of paths without an answer; `no_evidence`, that of evidence that
        is empty."""
        rows, paths = max(sums.get("rows", 0), 1), max(sums.get("paths", 0), 1)
        found = {"paths": paths / rows, "agreement": sums.get("agreement", 0) / rows}
        found |= {"ties": sums.get("tied", 0) / rows, "invalid": sums.get("invalid", 0) / paths}
        return found | ({"no_evidence": sums["no_evidence"] / sums["evidence"]} if sums.get("evidence") else {})


def _softmax(scores: Mapping[str, float]) -> list[float]:
    return torch.tensor(list(scores.values())).softmax(0).tolist()
