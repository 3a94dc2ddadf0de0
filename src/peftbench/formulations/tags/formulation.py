"""`tags`: a linear classifier on the first sub-word of each word, for token classification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BatchEncoding

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.formulations.snippets import Network
from peftbench.formulations.tags import snippet
from peftbench.formulations.text import pad, pad_inputs, what_was_cut
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData
from peftbench.tasks.problems.tags import OUTSIDE, tag_set, words

IGNORE = -100
"""Of a position that is no word's first sub-word."""


class TagsFormulation(Formulation):
    """Logits (batch, positions, tags) = W hidden states + b; cross-entropy, summed over the words.

    A word is read at its first sub-word (Devlin et al. 2019, arXiv 1810.04805, section 5.3), which is the first token
    that has a character of it: not the space before, where a tokenizer makes that a token. The tuner's virtual tokens
    are cut off. The hidden states are scaled to length sqrt(d) first (`normalize`). A word that the model
    does not see, because the sentence is too long or the tokenizer makes nothing of it, is answered with `O` and
    counted (`notes`); it takes no part in the loss.
    """

    purpose = "features"

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        if not self.tokenizer.is_fast:
            raise UsageError(
                f"model={backbone.name}: its tokenizer is in pure Python and does not say which word a token is of. "
                "Use a model with a fast tokenizer (a tokenizer.json)."
            )
        self.prefix = backbone.prefix
        self.normalize = cfg.normalize
        self.tags = tag_set(task.labels)
        self.dropout = nn.Dropout(cfg.dropout)
        self.classifier = nn.Linear(backbone.output_size, len(self.tags))
        with torch.no_grad():
            self.classifier.weight.mul_(cfg.head_init_scale)
            self.classifier.bias.zero_()
        self._unseen: dict[str, int] = {}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        texts = [self.prefix + row.text for row in rows]
        encodings = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        items = [self._encoded(row, encodings, i) for i, row in enumerate(rows)]
        self._note_unseen()
        return items

    def _encoded(self, row: Row, encodings: BatchEncoding, index: int) -> Encoded:
        ids = encodings["input_ids"][index]
        places = list(self._places(row, encodings, index))
        seen = sum(place is not None for place in places)
        if not seen:
            raise UsageError(
                f"trainer.max_length={self.max_length} leaves no room for a word of row {row.id}: raise it to "
                f"{4 * self.max_length}."
            )
        self._unseen[row.id] = len(places) - seen
        data = {"input_ids": ids, "places": places}
        if row.target is not None:
            data["labels"] = self._labels(row, places, len(ids))
        if "token_type_ids" in encodings:
            data["token_type_ids"] = encodings["token_type_ids"][index]
        return Encoded(row.id, len(ids), float(seen), data, what_was_cut(encodings, index, [row.text]))

    def _places(self, row: Row, encodings: BatchEncoding, index: int) -> Iterator[int | None]:
        """For each word the position of its first sub-word; None for one that the model does not see."""
        start = len(self.prefix)
        for word in words(row.text):
            found = (encodings.char_to_token(index, start + i) for i in range(len(word)))
            yield next((place for place in found if place is not None), None)
            start += len(word) + 1

    def _labels(self, row: Row, places: Sequence[int | None], length: int) -> list[int]:
        labels = [IGNORE] * length
        for place, tag in zip(places, row.target, strict=True):  # type: ignore[arg-type]
            if place is not None:
                labels[place] = self.tags.index(str(tag))
        return labels

    def _note_unseen(self) -> None:
        """One note a split on the words that are not seen, over all that was encoded so far."""
        counts: dict[str, list[int]] = {}
        for name, unseen in self._unseen.items():
            if unseen:
                counts.setdefault(name.partition(":")[0], []).append(unseen)
        self.notes[:] = [
            f"{split}: {sum(found)} words of {len(found)} sentences lie behind trainer.max_length={self.max_length} or "
            f"are nothing to the tokenizer; they are answered with {OUTSIDE}"
            for split, found in counts.items()
        ]

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        return snippet.code(
            network,
            self.tags,
            prefix=self.prefix,
            max_length=self.max_length,
            virtual_tokens=self.virtual_tokens,
            normalize=self.normalize,
        )

    def collate(self, items: Sequence[Encoded]) -> Batch:
        side = self.tokenizer.padding_side
        batch: Batch = {
            "ids": [i.id for i in items],
            "places": [i.data["places"] for i in items],
            **pad_inputs([i.data["input_ids"] for i in items], self.tokenizer, side),
        }
        if items and "token_type_ids" in items[0].data:
            batch["token_type_ids"] = pad([i.data["token_type_ids"] for i in items], 0, side)
        if items and all("labels" in i.data for i in items):
            batch["targets"] = pad([i.data["labels"] for i in items], IGNORE, side)
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, positions, tags), fp32 whatever the backbone's precision."""
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids") if k in batch}
        hidden = model(**inputs).last_hidden_state[:, self.virtual_tokens :].float()
        if self.normalize:
            hidden = F.normalize(hidden, dim=-1) * hidden.shape[-1] ** 0.5
        with torch.autocast(hidden.device.type, enabled=False):
            return self.classifier(self.dropout(hidden))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.logits(model, batch)
        return F.cross_entropy(logits.transpose(1, 2), batch["targets"], ignore_index=IGNORE, reduction="sum")

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        best = self.logits(model, batch).argmax(-1).tolist()
        return [
            Prediction(id_, tuple(OUTSIDE if p is None else self.tags[row[p]] for p in places))
            for id_, row, places in zip(batch["ids"], best, batch["places"], strict=True)
        ]
