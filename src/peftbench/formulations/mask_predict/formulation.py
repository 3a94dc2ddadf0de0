"""`mask_predict`: from a masked LM to a non-autoregressive encoder-decoder (Yoshida's thesis, arXiv 2408.16241;
training and decoding are those of conditional masked LMs, Ghazvininejad et al., EMNLP 2019, arXiv 1904.09324).

In training m ~ U{1..T} of an answer's T tokens are masked, and the decoder, which sees the rest and the encoder's
states, predicts them. The number T is predicted from the encoder's first state. An answer is written in rounds: all
tokens are masked at first; in round t of n the T (n - t) / n least sure ones are masked again and predicted anew.

Our reading: an item's loss is the mean over its masked tokens plus that of the length, each item counting alike; the
decoder has its own copy of embeddings and head; special tokens stand around the answer and are never predicted; of
several lengths the one with the highest mean log-probability of its tokens is taken.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations import mlm_head
from peftbench.formulations.base import Batch, Encoded, Formulation, Prediction
from peftbench.formulations.fitting import Cut
from peftbench.formulations.mask_predict import MaskPredictConfig
from peftbench.formulations.mask_predict.decoder import decoder_of
from peftbench.formulations.reading import LabelReader
from peftbench.formulations.text import pad_inputs
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData

HELD_OUT_STEP = 2**32 - 1
"""Stands for the step outside training, where an item's masks are always the same."""
PLAIN = 1.0
"""Weight of an item."""


class MaskPredictFormulation(Formulation):
    """Encoder: the tuned model. Decoder and length predictor are parameters of the formulation."""

    purpose = "mlm"
    families = frozenset({"encoder"})
    title = "mask_predict"

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        assert isinstance(cfg, MaskPredictConfig)
        self.cfg, self.prefix = cfg, backbone.prefix
        self.decoder = decoder_of(backbone.model, backbone.name)
        self.mask_id = int(self.tokenizer.mask_token_id)
        around: list[int] = self.tokenizer(self.tokenizer.mask_token)["input_ids"]
        place = around.index(self.mask_id)
        self.front, self.back = around[:place], around[place + 1 :]
        words = {label: self.written(label) for label in task.labels}
        room = max((len(self.target_ids(word)) for word in words.values()), default=task.kind.room)
        self.longest = cfg.answer_tokens or (room if task.labels else min(room, max_length))
        self.reader = LabelReader(words) if task.labels else None
        lengths = self.longest if cfg.length == "absolute" else 2 * self.longest + 1
        self.length_head = nn.Linear(backbone.hidden_size, lengths)
        nn.init.zeros_(self.length_head.weight)
        nn.init.zeros_(self.length_head.bias)
        banned = torch.zeros(backbone.model.config.vocab_size, dtype=torch.bool)
        banned[[i for i in self.tokenizer.all_special_ids if i < len(banned)]] = True
        self.register_buffer("banned", banned, persistent=False)

    def attach(self, model: nn.Module) -> None:
        if self.virtual_tokens:
            raise UsageError("method/formulation=mask_predict: reads no prompt of vectors. Use another tuner.")
        for parameter in mlm_head.own_parameters(model).values():
            parameter.requires_grad_(False)  # only the decoder's head is asked

    def kept_state(self) -> dict[str, Tensor]:
        """Nothing: what of the decoder's state is no parameter is a tied one's second name."""
        return {}

    def written(self, target: Any) -> str:
        """The text that stands for a target."""
        write = self.task.kind.write
        assert write is not None
        return write(target, self.task, self.cfg.answers)

    def target_ids(self, text: str) -> list[int]:
        """Tokens of an answer without special ones."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        items = []
        for row in rows:
            texts = [self.prefix + row.text, *([row.pair] if row.pair else [])]
            whole = self.tokenizer(*texts, verbose=False)["input_ids"]
            ids = self.tokenizer(*texts, truncation=True, max_length=self.max_length)["input_ids"]
            target = None if row.target is None else self.target_ids(self.written(row.target))[: self.longest]
            data = {"source": ids, "target": target or None}
            cut = Cut.WHOLE if len(whole) <= self.max_length else Cut.SHORTENED
            items.append(Encoded(row.id, len(ids) + len(target or ()), PLAIN, data, cut))
        return items

    def masked_places(self, item: Encoded) -> list[int]:
        """Which tokens of the answer are predicted in the present step, in order; from seed, step and item."""
        step = (self.seed % 2**32, self.step) if self.training else (0, HELD_OUT_STEP)
        random = np.random.RandomState([*step, zlib.crc32(item.id.encode())])
        size = len(item.data["target"])
        return sorted(random.permutation(size)[: random.randint(1, size + 1)].tolist())

    def collate(self, items: Sequence[Encoded]) -> Batch:
        batch: Batch = {"ids": [item.id for item in items]}
        batch |= pad_inputs([item.data["source"] for item in items], self.tokenizer, "right")
        if items and all(item.data["target"] for item in items):
            places = [self.masked_places(item) for item in items]
            batch |= self.teacher([item.data["target"] for item in items], places)
            batch["lengths"] = torch.tensor([len(item.data["target"]) for item in items])
        return batch

    def teacher(self, targets: Sequence[list[int]], masked: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """`decoder_ids`, `decoder_mask`, `places` (batch, n) of the masked tokens, and `targets` (places,)."""
        shown = [[self.mask_id if i in own else token for i, token in enumerate(target)]
                 for target, own in zip(targets, masked, strict=True)]  # fmt: skip
        inputs = self.framed(shown)
        places = torch.zeros_like(inputs["decoder_ids"], dtype=torch.bool)
        for row, own in enumerate(masked):
            places[row, [len(self.front) + i for i in own]] = True
        wanted = [target[i] for target, own in zip(targets, masked, strict=True) for i in own]
        return {**inputs, "places": places, "targets": torch.tensor(wanted, dtype=torch.long)}

    def framed(self, answers: Sequence[list[int]]) -> dict[str, Tensor]:
        """Answers between special tokens, padded on the right."""
        framed = [[*self.front, *ids, *self.back] for ids in answers]
        inputs = pad_inputs(framed, self.tokenizer, "right")
        return {"decoder_ids": inputs["input_ids"], "decoder_mask": inputs["attention_mask"]}

    def source_states(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, n, d): what the encoder makes of the rows."""
        encoder = mlm_head.masked_lm(model).base_model
        states: Tensor = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        return states

    def token_scores(self, ids: Tensor, mask: Tensor, states: Tensor, seen: Tensor, places: Tensor) -> Tensor:
        """(places, vocabulary) log-probabilities of what stands at `places`; special tokens have none."""
        with mlm_head.at_places(self.decoder, places, 0):
            logits = self.decoder(
                input_ids=ids, attention_mask=mask, encoder_hidden_states=states, encoder_attention_mask=seen
            ).logits
        return logits.float().masked_fill(self.banned, float("-inf")).log_softmax(-1)

    def length_scores(self, states: Tensor, seen: Tensor) -> Tensor:
        """(batch, longest) log-probabilities of an answer of 1, 2 ... tokens."""
        scores = self.length_head(states[:, 0]).float()
        if self.cfg.length == "offset":
            place = torch.arange(1, self.longest + 1, device=seen.device) - self.source_lengths(seen) + self.longest
            scores = scores.gather(1, place.clamp(0, 2 * self.longest))
        return scores.log_softmax(-1)

    def source_lengths(self, seen: Tensor) -> Tensor:
        """(batch, 1) tokens of the rows, those that stand around them not counted."""
        return seen.sum(1, keepdim=True) - len(self.front) - len(self.back)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        states, seen, places = self.source_states(model, batch), batch["attention_mask"], batch["places"]
        scores = self.token_scores(batch["decoder_ids"], batch["decoder_mask"], states, seen, places)
        losses = F.nll_loss(scores, batch["targets"], reduction="none")
        rows, counts = places.nonzero()[:, 0], places.sum(1)
        tokens = losses.new_zeros(len(places)).index_add(0, rows, losses) / counts
        lengths = F.nll_loss(self.length_scores(states, seen), batch["lengths"] - 1, reduction="none")
        return (tokens + lengths).sum()

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        states, seen = self.source_states(model, batch), batch["attention_mask"]
        tried = min(self.cfg.lengths, self.longest)
        lengths = self.length_scores(states, seen).topk(tried, dim=1).indices + 1
        states, seen = states.repeat_interleave(tried, 0), seen.repeat_interleave(tried, 0)
        answers, sure = self.written_in_rounds(lengths.flatten().tolist(), states, seen)
        found = []
        for row, id_ in enumerate(batch["ids"]):
            best = max(range(row * tried, (row + 1) * tried), key=lambda place: sure[place])
            text = str(self.tokenizer.decode(answers[best], clean_up_tokenization_spaces=False)).strip()
            found.append(Prediction(id_, self.read(text), answer=text))
        return found

    def written_in_rounds(
        self, lengths: Sequence[int], states: Tensor, seen: Tensor
    ) -> tuple[list[list[int]], list[float]]:
        """Mask-predict: an answer of each length, and the mean log-probability of its tokens."""
        inputs = {k: v.to(seen.device) for k, v in self.framed([[self.mask_id] * n for n in lengths]).items()}
        ids, mask = inputs["decoder_ids"], inputs["decoder_mask"]
        own = ids == self.mask_id
        sure = torch.zeros(ids.shape, device=ids.device)
        for done in range(self.cfg.rounds):
            masked = own if not done else self.least_sure(sure, own, done)
            if not masked.any():
                break
            ids = ids.masked_fill(masked, self.mask_id)
            scores, tokens = self.token_scores(ids, mask, states, seen, masked).max(-1)
            ids, sure = ids.masked_scatter(masked, tokens), sure.masked_scatter(masked, scores)
        return [row[m].tolist() for row, m in zip(ids, own, strict=True)], (sure.sum(1) / own.sum(1)).tolist()

    def least_sure(self, sure: Tensor, own: Tensor, done: int) -> Tensor:
        """(batch, n): of each answer's T tokens the T (n - t) / n least sure, rounded down, after t rounds of n."""
        counts = own.sum(1) * (self.cfg.rounds - done) // self.cfg.rounds
        order = torch.argsort(sure.masked_fill(~own, float("inf")), dim=1, stable=True)
        ranks = torch.argsort(order, dim=1)
        return own & (ranks < counts.unsqueeze(1))

    def read(self, text: str) -> Any:
        """What a text says, None if nothing."""
        if self.reader is not None:
            return self.reader(text)
        assert self.task.kind.parse is not None
        return self.task.kind.parse(text, self.task, self.cfg.answers)
