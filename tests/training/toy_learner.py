"""Small learners with the interface the loop knows; imported by the tests of this folder and by their worker."""

from __future__ import annotations

import random
from types import SimpleNamespace

import torch
from torch import nn

from peftbench.config.schema import TrainerConfig
from peftbench.formulations.base import Encoded, Prediction

CLASSES = 3
VOCABULARY = 50


def trainer(**changes) -> TrainerConfig:
    values = {"name": "test", "steps": 12, "batch_size": 4, "device": "cpu", "progress": False, "precision": "fp32"}
    return TrainerConfig(**{**values, **changes})


def items(count: int = 22, seed: int = 0) -> list[Encoded]:
    """Items of different lengths and weights whose class is in their first token."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        tokens = [draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(2, 12))]
        data = {"ids": tokens, "label": tokens[0] % CLASSES}
        made.append(Encoded(id=f"train:{i}", length=len(tokens), weight=float(1 + i % 3), data=data))
    return made


class Toy(nn.Module):
    """Embedding bag and a head in two groups, one parameter that no loss reaches, and frozen ones."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        self.dropout = nn.Dropout(dropout)
        self.unreached = nn.Parameter(torch.ones(3, 3))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)

    def collate(self, batch):
        width = max(len(item.data["ids"]) for item in batch)
        return {
            "ids": [item.id for item in batch],
            "input_ids": torch.tensor([item.data["ids"] + [0] * (width - len(item.data["ids"])) for item in batch]),
            "labels": torch.tensor([item.data["label"] for item in batch]),
            "weights": torch.tensor([item.weight for item in batch]),
        }

    backbone = SimpleNamespace(revision="random")

    def backward(self, loss):
        loss.backward()

    def logits(self, batch):
        mask = (batch["input_ids"] > 0).float().unsqueeze(-1)
        pooled = (self.embed(batch["input_ids"]) * mask).sum(1) / mask.sum(1)
        return self.head(self.dropout(torch.tanh(self.mix(pooled))) * self.frozen)

    def forward(self, batch):
        losses = nn.functional.cross_entropy(self.logits(batch), batch["labels"], reduction="none")
        return (losses * batch["weights"]).sum()

    @torch.no_grad()
    def predict(self, batch):
        rows = zip(batch["ids"], self.logits(batch).tolist(), strict=True)
        return [
            Prediction(i, str(max(range(CLASSES), key=s.__getitem__)), dict(zip("012", s, strict=True)))
            for i, s in rows
        ]

    def begin_step(self, step, seed, items):
        pass

    def before_step(self, step, steps):
        pass

    def after_step(self, step, steps):
        pass

    def param_groups(self):
        backbone = [*self.embed.parameters(), *self.mix.parameters(), self.unreached]
        return {"backbone": backbone, "head": list(self.head.parameters())}

    def trainable_state(self):
        return {n: p.detach().to("cpu", copy=True) for n, p in self.named_parameters() if p.requires_grad}

    def training_state(self):
        return self.trainable_state()

    def load_training_state(self, state):
        self.load_trainable_state(state)

    def load_trainable_state(self, state):
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[name])


class TinyBert(Toy):
    """A randomly initialised transformers BERT with a head; the pooler gets no gradient, as in `method=full`."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        del self.embed, self.mix, self.unreached, self.frozen
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.bert = BertModel(config)
        self.backbone = SimpleNamespace(model=self.bert, revision="random")

    def logits(self, batch):
        mask = (batch["input_ids"] > 0).long()
        hidden = self.bert(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        return self.head((hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))

    def param_groups(self):
        return {"backbone": list(self.bert.parameters()), "head": list(self.head.parameters())}


LR = {"backbone": 0.02, "head": 0.05}
