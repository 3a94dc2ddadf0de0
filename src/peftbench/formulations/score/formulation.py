"""`score`: every label string is ranked by its log-likelihood given the input."""

from __future__ import annotations

import torch
from torch import nn

from peftbench.formulations.base import Batch, Prediction
from peftbench.formulations.generate.formulation import TextFormulation


class ScoreFormulation(TextFormulation):
    """Trained like `generate` (teacher forcing on the gold answer); predicts the label with the highest mean
    log-likelihood per token, so that long label names are not put at a disadvantage."""

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        mask = batch["attention_mask"].bool()
        device = batch["input_ids"].device
        prompts = [ids[m].tolist() for ids, m in zip(batch["input_ids"], mask, strict=True)]
        columns = []
        for answer in self.answers.values():
            teacher = self.teacher_batch(prompts, [answer] * len(prompts))
            losses = self.token_losses(model, {k: v.to(device) for k, v in teacher.items()})
            columns.append(-losses.sum(1) / len(answer))
        scores = torch.stack(columns, dim=1).cpu()
        labels = list(self.answers)
        return [
            Prediction(id_, labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True)))
            for id_, row in zip(batch["ids"], scores, strict=True)
        ]
