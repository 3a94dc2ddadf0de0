"""`head`: a linear classification (or regression) head on one vector per item."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.formulations.head import snippet
from peftbench.formulations.pooling import DECODER_END, Reader
from peftbench.formulations.snippets import Network
from peftbench.formulations.text import pad, pad_inputs, what_was_cut
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData, bare_task

DENSE_STD = 0.02
"""Of the weights of a head with a dense layer, as transformers initialises RoBERTa's."""


class HeadFormulation(Formulation):
    """Logits (batch, classes) = W pool(hidden states) + b; cross-entropy, or squared error for a regression task.

    Pooling skips the tuner's virtual tokens and the padding: `mean` averages the real tokens, `cls` takes the first
    and `last` the last real token. Where the config is silent encoders and causal models have their own pooling, and
    encoder-decoders are read at the decoder's end, where every part of the network has a say (`pooling.Reader`). With
    `dense` a layer with tanh comes first: RoBERTa's own classification head, and BART's. A
    regression target is scaled to [0, 1] by the task's score range; a predicted score may lie outside of it.
    """

    purpose = "features"
    words_count = False

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        usual = DECODER_END if backbone.family == "seq2seq" else backbone.pooling
        self.read = Reader(backbone, cfg.pooling or usual)
        self.prefix = backbone.prefix
        self.normalize = cfg.normalize
        self.dropout = nn.Dropout(cfg.dropout)
        outputs = len(task.labels) if task.problem == "classification" else 1
        self.classifier = nn.Linear(backbone.output_size, outputs)
        with torch.no_grad():
            self.classifier.weight.mul_(cfg.head_init_scale)
            self.classifier.bias.zero_()
        self.dense = nn.Linear(backbone.output_size, backbone.output_size) if cfg.dense else None
        if self.dense is not None:
            for layer in (self.dense, self.classifier):
                nn.init.normal_(layer.weight, std=DENSE_STD)
                nn.init.zeros_(layer.bias)

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        return snippet.code(
            network,
            self.task,
            self.text_names(pairs),
            self.read,
            prefix=self.prefix,
            max_length=self.max_length,
            virtual_tokens=self.virtual_tokens,
            normalize=self.normalize,
            dense=self.dense is not None,
        )

    def tokens_depend_on(self) -> Hashable | None:
        if type(self) is not HeadFormulation:
            return None
        return self.max_length, self.prefix, repr(bare_task(self.task))

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Tokenise: the prefix and the text, or both texts of a pair, of which the longer is cut first.

        Returns:
            One item a row, of at most `max_length` tokens: `input_ids` and, of a tokenizer that has them,
            `token_type_ids`, lists of the item's length; `target`, the number of the label or the score scaled to
            [0, 1], None where the row has none.

        Raises:
            ValueError: a target is no label of the task, or no number.
            UsageError: the task is a regression without a range of scores.
        """
        texts = [self.prefix + row.text for row in rows]
        pairs = [row.pair for row in rows]
        if any(p is not None for p in pairs):
            encodings = self.tokenizer(
                texts, [p or "" for p in pairs], truncation="longest_first", max_length=self.max_length
            )
        else:
            encodings = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        types = encodings.get("token_type_ids")
        items = []
        for i, row in enumerate(rows):
            data = {"input_ids": encodings["input_ids"][i], "target": self._target(row)}
            if types is not None:
                data["token_type_ids"] = types[i]
            items.append(
                Encoded(
                    row.id, len(data["input_ids"]), 1.0, data, what_was_cut(encodings, i, [row.text, row.pair or ""])
                )
            )
        return items

    def _target(self, row: Row) -> int | float | None:
        if row.target is None:
            return None
        if self.task.problem == "classification":
            return self.task.labels.index(str(row.target))
        if self.task.score_range is None:
            raise UsageError(f"task {self.task.name}: a regression task needs a score_range.")
        low, high = self.task.score_range
        return (float(row.target) - low) / (high - low)  # type: ignore[arg-type]

    def collate(self, items: Sequence[Encoded]) -> Batch:
        side = self.tokenizer.padding_side
        batch: Batch = {
            "ids": [i.id for i in items],
            **pad_inputs([i.data["input_ids"] for i in items], self.tokenizer, side),
        }
        if items and "token_type_ids" in items[0].data:
            batch["token_type_ids"] = pad([i.data["token_type_ids"] for i in items], 0, side)
        if items and all(i.data["target"] is not None for i in items):
            batch["targets"] = torch.tensor([i.data["target"] for i in items])
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, classes), fp32 whatever the backbone's precision."""
        pooled = self.read(model, batch, self.virtual_tokens)
        if self.normalize:
            pooled = F.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5
        with torch.autocast(pooled.device.type, enabled=False):
            if self.dense is not None:
                pooled = torch.tanh(self.dense(self.dropout(pooled)))
            return self.classifier(self.dropout(pooled))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss_of(self.logits(model, batch), batch)

    def loss_of(self, logits: Tensor, batch: Batch) -> Tensor:
        """Scalar: the sum over the batch."""
        if self.task.problem == "classification":
            return F.cross_entropy(logits, batch["targets"], reduction="sum")
        return F.mse_loss(logits.squeeze(-1), batch["targets"].float(), reduction="sum")

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        logits = self.logits(model, batch).cpu()
        if self.task.problem == "classification":
            labels = self.task.labels
            return [
                Prediction(id_, labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True)))
                for id_, row in zip(batch["ids"], logits, strict=True)
            ]
        low, high = self.task.score_range or (0.0, 1.0)
        values = (logits.squeeze(-1) * (high - low) + low).tolist()
        return [Prediction(id_, value) for id_, value in zip(batch["ids"], values, strict=True)]
