"""`score`: every label string is ranked by its log-likelihood given the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.formulations.base import Batch, Prediction
from peftbench.formulations.generate import snippet
from peftbench.formulations.generate.formulation import TextFormulation
from peftbench.formulations.scoring import log_likelihoods
from peftbench.formulations.snippets import Network
from peftbench.formulations.trie import Trie
from peftbench.models.base import Backbone
from peftbench.tasks.base import TaskData


class ScoreFormulation(TextFormulation):
    """Trained like `generate` (teacher forcing on the gold answer); predicts the label with the highest mean
    log-likelihood per token, so that long label names are not put at a disadvantage."""

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.trie = Trie(list(self.label_ids.values()))

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        return snippet.ranked(self, network, pairs)

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        scores = self.label_scores(model, batch).cpu()
        labels = list(self.label_ids)
        return [
            Prediction(id_, labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True)))
            for id_, row in zip(batch["ids"], scores, strict=True)
        ]

    def label_scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, labels): mean log-likelihood of the tokens of each label's answer, end-of-sequence included."""
        lengths = torch.tensor([len(answer) for answer in self.trie.sequences])
        return self.likelihoods(model, batch) / lengths.to(batch["input_ids"].device)

    def likelihoods(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, answers): the log-likelihood of each answer behind each prompt."""
        start = self.decoder_start(model) if self.encoder_decoder else None
        found = log_likelihoods(model, batch, self.trie, start) if self.takes_cache else None
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
