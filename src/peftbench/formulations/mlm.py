"""`mlm`: masked-language-model training on texts. Of the `continued_pretraining` stage alone: no task is posed by it.

Of an item's tokens a fixed share is chosen (15 %, at least one, never a special token); of these 80 % are shown as the
mask, 10 % as a random token and 10 % as they are (Devlin et al. 2019, arXiv 1810.04805, section 3.1). The loss is the
cross-entropy over the vocabulary at the chosen places. The number of chosen tokens is fixed, as in BERT, where the
released PCP code draws each token by itself: then an item's weight in the mean is known before its masks are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.formulations import mlm_head
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.formulations.fitting import Cut
from peftbench.formulations.text import pad_inputs
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

HIDDEN, RANDOM = 0.8, 0.1
"""Of the chosen tokens: the share that is shown as the mask, and as a random token."""
HELD_OUT_STEP = 2**32 - 1
"""Stands for the step outside training, where an item's masks are always the same."""

Ids = Callable[[Row], tuple[list[int], Cut, list[int]]]
"""A row's token ids, special tokens included; what became of its text; and the places of its label word, if any."""


class MlmFormulation(Formulation):
    """Masks are drawn from (seed, step, item): anew in every step, alike for any number of processes and any resume.

    Args:
        share: of an item's tokens that are predicted.
        ids: how a row is tokenised; None: its text, and behind it that of its pair, cut at `max_length`.
        always: whether the label word's tokens are always chosen, and shown as the mask.
        train_head: whether the masked-LM head is trained where the tuner leaves it frozen.
    """

    purpose = "mlm"
    families = frozenset({"encoder"})

    def __init__(
        self,
        backbone: Backbone,
        task: TaskData,
        max_length: int,
        cfg: FormulationConfig,
        share: float = 0.15,
        ids: Ids | None = None,
        always: bool = False,
        train_head: bool = False,
    ) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.prefix, self.share, self.train_head = backbone.prefix, share, train_head
        self.ids, self.always = ids or self.plain_ids, always
        self.mask_id = int(self.tokenizer.mask_token_id)
        self.special = frozenset(self.tokenizer.all_special_ids)

    def attach(self, model: nn.Module) -> None:
        for parameter in self.own_parameters(model).values():
            parameter.requires_grad_(True)

    def own_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return mlm_head.own_parameters(model) if self.train_head else {}

    def plain_ids(self, row: Row) -> tuple[list[int], Cut, list[int]]:
        """Ids of the raw text."""
        text = self.prefix + row.whole
        ids: list[int] = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if len(ids) <= self.max_length:
            return ids, Cut.WHOLE, []
        return self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"], Cut.SHORTENED, []

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """An item's weight is the number of its tokens that are predicted; 0 for a text without any token."""
        items = []
        for row in rows:
            ids, cut, word = self.ids(row)
            always = word if self.always else []
            places = [place for place, token in enumerate(ids) if token not in self.special]
            chosen = max(1, len(always), round(self.share * len(places))) if places else 0
            data = {"input_ids": ids, "always": always, "maskable": [p for p in places if p not in always]}
            items.append(Encoded(row.id, len(ids), float(chosen), data, cut))
        return items

    def masked(self, item: Encoded) -> tuple[list[int], list[int]]:
        """The ids that the model is shown in the present step, and the places that it must predict, in order."""
        step = (self.seed % 2**32, self.step) if self.training else (0, HELD_OUT_STEP)
        random = np.random.RandomState([*step, zlib.crc32(item.id.encode())])
        always = item.data["always"]
        drawn = random.choice(item.data["maskable"], size=int(item.weight) - len(always), replace=False)
        places = np.sort(np.concatenate([np.array(always, dtype=int), drawn]))
        fate, other = random.rand(len(places)), random.randint(len(self.tokenizer), size=len(places))
        shown = list(item.data["input_ids"])
        for place, chance, token in zip(places.tolist(), fate, other.tolist(), strict=True):
            if chance < HIDDEN or place in always:
                shown[place] = self.mask_id
            elif chance < HIDDEN + RANDOM:
                shown[place] = token
        return shown, places.tolist()

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Inputs, `places` (batch, n) bool, and `targets`: the (places,) original ids there, row after row."""
        shown, places = zip(*(self.masked(item) for item in items), strict=True)
        batch: Batch = {"ids": [item.id for item in items], **pad_inputs(shown, self.tokenizer, "right")}
        batch["places"] = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for row, chosen in enumerate(places):
            batch["places"][row, chosen] = True
        targets = ([item.data["input_ids"][p] for p in chosen] for item, chosen in zip(items, places, strict=True))
        batch["targets"] = torch.tensor(list(chain.from_iterable(targets)), dtype=torch.long)
        return batch

    def token_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(places,) cross-entropies, fp32."""
        with mlm_head.at_places(model, batch["places"], self.virtual_tokens):
            scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(scores.float(), batch["targets"], reduction="none")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.token_losses(model, batch).sum()

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        """No labels; `scores` holds the sum of an item's losses, `loss`, over its predicted `tokens`."""
        counts = batch["places"].sum(1).tolist()
        sums = [part.sum().item() for part in self.token_losses(model, batch).split(counts)]
        return [
            Prediction(id_, None, {"loss": loss, "tokens": float(count)})
            for id_, loss, count in zip(batch["ids"], sums, counts, strict=True)
        ]
