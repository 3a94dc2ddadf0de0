"""`embed`: one vector a text, compared by cosine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.formulations.embed import EmbedConfig
from peftbench.formulations.embed.losses import PairLoss, cosine
from peftbench.formulations.pooling import Reader
from peftbench.formulations.text import pad, pad_inputs, what_was_cut
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

ABSENT = -1e4
"""Score of a class that no row of the draw has: it is never the answer of a fitted head."""


class Pair(NamedTuple):
    """Two texts of a training, by their rows' places, and how alike they are, from 0 to 1."""

    first: int
    second: int
    target: float


class EmbedFormulation(Formulation):
    """Vectors (batch, d) = pool(hidden states), of unit length with `normalize`.

    A class is answered by the fitted logistic head (`put_head`), and before there is one by the cosine to the text
    that `label_text` makes of each label. A row of two texts with a score is answered by their cosine; other rows of
    two texts are one input. Trained on pairs of texts with `pair_loss`.
    """

    purpose = "features"
    writes_domains = True

    weight: Tensor
    bias: Tensor
    fitted: Tensor

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: EmbedConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.read = Reader(backbone, cfg.pooling or backbone.pooling)
        self.prefix, self.normalize = backbone.prefix, cfg.normalize
        self.compares = task.problem != "classification"
        self.label_texts = [
            cfg.label_text.replace("{label}", task.label_words.get(label, label)) for label in task.labels
        ]
        self.pair_loss: PairLoss = cosine
        self.share_texts = False
        """Whether a text of several pairs of a batch is embedded once: the same numbers, if there is no dropout."""
        self.register_buffer("weight", torch.zeros(len(task.labels), backbone.output_size))
        self.register_buffer("bias", torch.zeros(len(task.labels)))
        self.register_buffer("fitted", torch.zeros(1))

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """One item a row; of rows that are compared, one a text."""
        if not self.compares:
            return self._items(rows)
        if any(row.pair is None for row in rows):
            raise UsageError(
                f"task={self.task.name}: has scores of single texts, and method/formulation=embed compares two. Use "
                "method/formulation=head."
            )
        texts = [(text, row.domain) for row in rows for text in (row.text, row.pair or "")]
        return self._items([Row(text_id(*t), t[0], None, domain=t[1]) for t in dict.fromkeys(texts)])

    def _items(self, rows: Sequence[Row]) -> list[Encoded]:
        texts = [self.prefix + row.text for row in rows]
        second = [row.pair or "" for row in rows] if any(row.pair is not None for row in rows) else None
        cut = "longest_first" if second else True
        found = self.tokenizer(texts, second, truncation=cut, max_length=self.max_length)
        items = []
        for i, row in enumerate(rows):
            data = {key: list(found[key][i]) for key in ("input_ids", "token_type_ids") if key in found}
            if self.domain_tokens:
                data["input_ids"][0] = self._domain_token(row)
            length = len(data["input_ids"])
            items.append(
                Encoded(row.id, length, 1.0, {"texts": [data]}, what_was_cut(found, i, [row.text, row.pair or ""]))
            )
        return items

    def _domain_token(self, row: Row) -> int:
        token = self.domain_tokens.get(str(row.domain))
        if token is None:
            known = ", ".join(self.domain_tokens)
            raise UsageError(
                f"the text `{row.text:.40}`: its domain is {row.domain or 'not given'}, and the method has experts for "
                f"{known}. Rows to predict say theirs by `domain`."
            )
        return token

    def pair_items(self, rows: Sequence[Row], pairs: Sequence[Pair]) -> list[Encoded]:
        """Items to train on. `rows`: one a text, without a second text."""
        single = self._items(rows)
        items = []
        for number, pair in enumerate(pairs):
            one, other = single[pair.first], single[pair.second]
            data = {"texts": [*one.data["texts"], *other.data["texts"]], "target": pair.target}
            items.append(Encoded(f"{number}:{one.id}+{other.id}", one.length + other.length, 1.0, data))
        return items

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """`texts` (items, texts of each): where in the batch's rows their tokens are."""
        texts = [text for item in items for text in item.data["texts"]]
        places = list(range(len(texts)))
        if self.share_texts:
            first = {id(text): i for i, text in reversed(list(enumerate(texts)))}
            kept = sorted(first.values())
            places = [kept.index(first[id(text)]) for text in texts]
            texts = [texts[i] for i in kept]
        side = self.tokenizer.padding_side
        batch: Batch = {
            "ids": [item.id for item in items],
            **pad_inputs([text["input_ids"] for text in texts], self.tokenizer, side),
            "texts": torch.tensor(places).view(len(items), -1),
        }
        if texts and "token_type_ids" in texts[0]:
            batch["token_type_ids"] = pad([text["token_type_ids"] for text in texts], 0, side)
        if items and "target" in items[0].data:
            batch["targets"] = torch.tensor([item.data["target"] for item in items], dtype=torch.float32)
        return batch

    def vectors(self, model: nn.Module, batch: Batch) -> Tensor:
        """(texts, d), fp32."""
        pooled = self.read(model, batch, self.virtual_tokens)
        return F.normalize(pooled, dim=-1) if self.normalize else pooled

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        vectors, places = self.vectors(model, batch), batch["texts"]
        with torch.autocast(vectors.device.type, enabled=False):
            return self.pair_loss(vectors[places[:, 0]], vectors[places[:, 1]], batch["targets"])

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        """Each with its vector, and with its class where the task has classes."""
        vectors = self.vectors(model, batch)
        plain = vectors.cpu().numpy()
        if self.compares:
            return [Prediction(id_, None, vector=vector) for id_, vector in zip(batch["ids"], plain, strict=True)]
        logits = self._logits(model, vectors).cpu()
        return [
            Prediction(id_, self.task.labels[int(row.argmax())], dict(zip(self.task.labels, row.tolist(), strict=True)),
                       vector=vector)
            for id_, row, vector in zip(batch["ids"], logits, plain, strict=True)
        ]  # fmt: skip

    def _logits(self, model: nn.Module, vectors: Tensor) -> Tensor:
        """(batch, classes)"""
        if self.fitted:
            return vectors @ self.weight.T + self.bias
        rows = [Row(str(i), text, None) for i, text in enumerate(self.label_texts)]
        batch = {k: v.to(vectors.device) if isinstance(v, Tensor) else v for k, v in self._label_batch(rows).items()}
        return F.normalize(vectors, dim=-1) @ F.normalize(self.vectors(model, batch), dim=-1).T

    def _label_batch(self, rows: Sequence[Row]) -> Batch:
        return self.collate(self._items(rows))

    def answers(self, rows: Sequence[Row], predictions: Sequence[Prediction]) -> list[Prediction]:
        """Of rows that are compared, the cosine of the two vectors on the task's scale; else the predictions."""
        if not self.compares:
            return list(predictions)
        low, high = self.task.score_range or (0.0, 1.0)
        found = torch.stack([torch.as_tensor(p.vector) for p in predictions])
        unit, place = F.normalize(found, dim=-1), {p.id: i for i, p in enumerate(predictions)}
        first = [place[text_id(row.text, row.domain)] for row in rows]
        second = [place[text_id(row.pair or "", row.domain)] for row in rows]
        cosines = (unit[first] * unit[second]).sum(-1)
        return [Prediction(row.id, low + (high - low) * c) for row, c in zip(rows, cosines.tolist(), strict=True)]

    def put_head(self, classes: Sequence[str], weight: Tensor, bias: Tensor) -> None:
        """Answer from now on by a linear head: (classes, d) and (classes,); of two classes one row, the second's."""
        if len(weight) == 1 < len(classes):
            weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
        self.weight.zero_()
        self.bias.fill_(ABSENT)
        places = [self.task.labels.index(name) for name in classes]
        self.weight[places] = weight.to(self.weight)
        self.bias[places] = bias.to(self.bias)
        self.fitted.fill_(1)


def text_id(text: str, domain: str | None) -> str:
    """Equal for equal texts of one domain."""
    return hashlib.sha256(f"{domain}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def single_texts(rows: Sequence[Row]) -> tuple[list[Row], Mapping[str, int]]:
    """One row a text of `rows` and of their second texts, and its place by `text_id`."""
    found: dict[str, Row] = {}
    for row in rows:
        for text in (row.text, row.pair or ""):
            key = text_id(text, row.domain)
            found.setdefault(key, replace(row, id=key, text=text, pair=None, target=None))
    return list(found.values()), {key: i for i, key in enumerate(found)}
