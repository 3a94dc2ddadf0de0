"""`score`: every label string is ranked by its log-likelihood given the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig, with_options
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Prediction
from peftbench.formulations.calibrated import Calibrated
from peftbench.formulations.generate import snippet
from peftbench.formulations.in_words import TextFormulation, check_answers
from peftbench.formulations.label_words import read_words
from peftbench.formulations.score import TERMS, ScoreConfig
from peftbench.formulations.scoring import Change, log_likelihoods
from peftbench.formulations.snippets import Network
from peftbench.formulations.trie import Trie
from peftbench.models.base import Backbone
from peftbench.tasks.base import TaskData


class ScoreFormulation(Calibrated, TextFormulation):
    """Trained like `generate` (teacher forcing on the gold answer); predicts the label whose answer is the likeliest.

    By default that is by the mean log-likelihood per token, so that long label names are not put at a disadvantage.

    With calibration the label scores s become log softmax(s) - log P0, P0 being the mean of softmax(s) over inputs
    without content (contextual calibration, Zhao et al. 2021, arXiv 2102.09690, section 5; there of the sums, here of
    whatever `likelihood` says), or over train texts.
    """

    plain_prompts = True
    sizes: Tensor
    log_prior: Tensor

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.options = self.cfg = with_options(cfg, ScoreConfig)
        words = [word for label in task.labels for word in self.candidates[label]]
        self.owners = [n for n, label in enumerate(task.labels) for _ in self.candidates[label]]
        """Of each candidate the label's place."""
        self.trie = Trie([self.answer_ids(word) for word in words])
        ids = {word: list(found) for word, found in zip(words, self.trie.sequences, strict=True)}
        if len(words) > len(task.labels):
            texts = {word: self.text_of(own) for word, own in ids.items()}
            check_answers({w: w for w in words}, ids, texts, self.tokenizer.unk_token_id, backbone.name)
        size_of = {"mean": lambda w: len(ids[w]), "sum": lambda _: 1, "byte": lambda w: len(w.encode())}
        sizes = torch.tensor([size_of[self.cfg.likelihood](word) for word in words]).float()
        self.register_buffer("sizes", sizes, persistent=False)
        calibrated = self.cfg.calibration != "none"
        self.register_buffer("log_prior", torch.full((len(task.labels),), float("nan")), persistent=calibrated)
        self._ready = not calibrated
        self.change_read: Change | None = None
        """What is done to prompts before labels are read behind them, while an inference is at work."""

    def portable(self, cfg: FormulationConfig) -> tuple[FormulationConfig, TaskData]:
        """Candidates of a user's file as the task's terms."""
        found, task = super().portable(cfg)
        if getattr(cfg, "candidates", None) is None:
            return found, task
        terms = {label: tuple((word, 1.0) for word in own) for label, own in self.candidates.items()}
        return replace(found, candidates=TERMS, candidates_sha256=None), replace(task, terms=terms)  # type: ignore[call-arg]

    @cached_property
    def candidates(self) -> Mapping[str, tuple[str, ...]]:
        """Label name -> the answers that stand for it."""
        file = getattr(self.options, "candidates", None)
        if file is None:
            return {label: (self.answer_text(label),) for label in self.task.labels}
        if file == TERMS and not self.task.terms:
            raise UsageError(f"method.formulation.candidates={file}: task {self.task.name} has no terms. Name a file.")
        listed = self.task.terms if file == TERMS else read_words(Path(file), self.task.labels)
        found = {label: tuple(word for word, _ in listed[label]) for label in self.task.labels}
        every = [word for own in found.values() for word in own]
        if twice := next((word for word in every if every.count(word) > 1), None):
            raise UsageError(f"method.formulation.candidates={file}: `{twice}` stands there twice. Leave one.")
        return found

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        cfg = self.cfg
        if cfg.likelihood != "mean" or cfg.candidates is not None or cfg.calibration != "none":
            raise UsageError(
                "labels with several candidates, with calibration or by other likelihoods than mean are ranked by "
                "rules of peftbench's. `peftbench predict` answers for this run."
            )
        words = {label: self.space + self.answer_text(label) for label in self.task.labels}
        return snippet.ranked(network, self.exported_prompt(pairs), words)

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        scores = self.calibrated_scores(model, batch).cpu()
        labels = list(self.task.labels)
        return [
            Prediction(id_, labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True)))
            for id_, row in zip(batch["ids"], scores, strict=True)
        ]

    def calibrated_scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, labels)."""
        scores = self.label_scores(model, batch)
        if self.cfg.calibration == "none":
            return scores
        if not self._ready and bool(self.log_prior.isnan().any()):
            raise UsageError(
                "method.formulation.calibration: there is no prior yet. The stage `calibration` has to run first, e.g. "
                "'method.stages=[calibration,supervised]'."
            )
        return scores.log_softmax(-1) - self.log_prior

    def label_scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, labels): of the likeliest candidate of each, its log-likelihood by `likelihood`."""
        scores = self.likelihoods(model, batch) / self.sizes
        found = scores.new_full((len(scores), len(self.task.labels)), float("-inf"))
        owners = torch.tensor(self.owners, device=scores.device).expand(len(scores), -1)
        return found.scatter_reduce(1, owners, scores, "amax")

    def word_scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, labels): the labels' shares before calibration."""
        return self.label_scores(model, batch).softmax(-1)

    @torch.no_grad()
    def calibrate(self, model: nn.Module, scores: Tensor) -> int:
        self.log_prior.copy_(scores.mean(0).log())
        self._ready = True
        return 0

    def answer_count(self) -> int:
        return len(self.task.labels)

    def likelihoods(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, candidates): the log-likelihood of each answer behind each prompt."""
        start = self.decoder_start(model) if self.encoder_decoder else None
        share = not self.pass_answer_starts
        found = log_likelihoods(model, batch, self.trie, start, self.change_read, share) if self.takes_cache else None
        if found is None and self.change_read is not None:
            raise UsageError("method.inference: changes what the network has cached, and this one caches nothing.")
        return self.likelihoods_one_by_one(model, batch) if found is None else found

    def likelihoods_one_by_one(self, model: nn.Module, batch: Batch) -> Tensor:
        """The same with a pass over prompt and answer for each answer; for networks that keep no cache."""
        mask, device = batch["attention_mask"].bool(), batch["input_ids"].device
        prompts = [ids[m].tolist() for ids, m in zip(batch["input_ids"], mask, strict=True)]
        columns = []
        for answer in self.trie.sequences:
            teacher = self.teacher_batch(prompts, [list(answer)] * len(prompts))
            columns.append(-self.token_losses(model, {k: v.to(device) for k, v in teacher.items()}).sum(1))
        return torch.stack(columns, dim=1)
