"""`possibilities`: an answer to each number, and the words of the other answers made unlikely behind it."""

from __future__ import annotations

import json
import re
import string
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Encoded, Prediction
from peftbench.formulations.fitting import fit_texts
from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.formulations.in_words import IGNORE
from peftbench.formulations.possibilities import PLACE, PossibilitiesConfig
from peftbench.formulations.snippets import Network
from peftbench.formulations.text import pad, pad_inputs, text_to_text_input
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData, text_fields
from peftbench.tasks.stop_words import STOP_WORDS

COMMON = STOP_WORDS | set(string.punctuation)
LEAST = 1e-6
"""Below this 1 - p has no gradient."""


class Sequences(NamedTuple):
    """What is trained on in one item: a prompt and an answer each, first those that belong together."""

    prompts: list[list[int]]
    answers: list[list[int]]
    counted: list[list[bool]]
    """Of each answer the tokens that have a loss."""
    positive: list[bool]


class PossibilitiesFormulation(GenerateFormulation):
    """Mai and Carson-Berndsen, arXiv 2412.03343, after the released code. A row's loss is that of its n answers, each
    behind the prompt with its number, plus that of other answers behind it:

        mean over answer tokens of -log p  +  w * mean over content tokens of -log max(1 - p, 1e-6)

    with `w` the weight `unlikelihood`. Content tokens are those of an answer whose id is that of the first token of one
    of its content words: neither function word nor punctuation. The last two positions of a sequence are none.

    Our readings. The prompt's end has no loss (the released code counts its last token). An answer that was cut ends
    like any other. Function words are those that NLTK lists. The first token of a word is told by its place in the
    text, so that any fast tokenizer will do. The released training prompt has a line end after every character, by a
    slip; ours is that of its inference. Numbers are drawn anew in every step.
    """

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        assert isinstance(cfg, PossibilitiesConfig)
        super().__init__(backbone, task, max_length, cfg)
        self.cfg = cfg
        self.named = range(1, cfg.numbers + 1) if cfg.numbers else range(1)
        """The numbers that a prompt may have; 0 alone for a prompt without."""
        if not self.tokenizer.is_fast:
            raise UsageError(
                f"model={backbone.name}: its tokenizer does not say where a token stands in its text, by which "
                "method/formulation=possibilities knows content words. Use a model with a fast tokenizer."
            )

    def snippet(self, model: nn.Module, network: Network, pairs: bool) -> str:
        raise UsageError("several answers are peftbench's to ask for. `peftbench predict` answers for this run.")

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        items = []
        for row in rows:
            texts, cut = fit_texts(
                text_fields(row, self.task),
                lambda t: self._numbered(t, self.named[-1]),
                self.max_length - self.answer_length,
                self.tokenizer,
            )
            prompts = {k: self._numbered(texts, k) for k in self.named}
            answers = None if row.target is None else self._answers(row)
            length = self.cfg.responses * max(map(len, prompts.values()))
            items.append(Encoded(row.id, length, 1.0, {"prompts": prompts, "answers": answers}, cut))
        return items

    def _numbered(self, texts: Any, k: int) -> list[int]:
        """The prompt that asks for the k-th possibility."""
        ask = self.cfg.ask_numbered.replace(PLACE, str(k)) if k else self.cfg.ask
        return [*self.start_ids(f"{text_to_text_input(texts, self.prefix)}\n\n{ask}"), *self.cue]

    def _answers(self, row: Row) -> list[tuple[list[int], list[bool]]]:
        """Ids of the answers to train on, and which of them are content."""
        clusters: Any = row.target
        chosen = [answers[0] for _, answers in clusters[: self.cfg.answers_a_row]]
        return [self._answer(" ".join(text.split()[: self.cfg.answer_words])) for text in chosen]

    def _answer(self, text: str) -> tuple[list[int], list[bool]]:
        whole = self.space + text
        found = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = list(found["input_ids"]), [end for _, end in found["offset_mapping"]]
        first = {next(i for i, end in zip(ids, ends, strict=True) if end > start) for start in content_words(whole)}
        return [*ids, self.eos], [*(i in first for i in ids), False]

    def collate(self, items: Sequence[Encoded]) -> Batch:
        """Of each item the prompts that it is asked, `responses` rows of `input_ids`; and, of labelled items, the
        sequences to train on: `lm_input_ids`, `lm_attention_mask`, `labels`, `counted` [sequences, positions],
        `positive`, `item` [sequences]."""
        asked = [number for number in self.named for _ in range(1 if self.cfg.numbers else self.cfg.responses)]
        prompts = [item.data["prompts"][k] for item in items for k in asked[: self.cfg.responses]]
        batch: Batch = {"ids": [item.id for item in items], **pad_inputs(prompts, self.tokenizer, "left")}
        if items and all(item.data["answers"] is not None for item in items):
            batch |= self._to_train_on([self.sequences(item) for item in items])
        return batch

    def sequences(self, item: Encoded) -> Sequences:
        """What an item is trained on in the present step: its answers, each with a number of its own, and pairs of one
        answer's number with another answer, shuffled. What is drawn follows from seed, step and the item's id."""
        prompts, answers = item.data["prompts"], item.data["answers"]
        draws = np.random.RandomState([self.seed % 2**32, self.step, zlib.crc32(item.id.encode())])
        numbers = draws.permutation(self.named)[: len(answers)] if self.cfg.numbers else [0] * len(answers)
        made = Sequences([], [], [], [])
        wrong = [(i, j) for i in range(len(answers)) for j in range(len(answers)) if i != j]
        wrong = [wrong[n] for n in draws.permutation(len(wrong))] if self.cfg.numbers and self.cfg.unlikelihood else []
        for i, j in [*((i, i) for i in range(len(answers))), *wrong[: self.cfg.negatives]]:
            ids, content = answers[j]
            made.prompts.append(prompts[int(numbers[i])])
            made.answers.append(ids)
            made.counted.append([True] * len(ids) if i == j else [*content[:-2], False, False][-len(ids) :])
            made.positive.append(i == j)
        return made

    def _to_train_on(self, made: Sequence[Sequences]) -> Batch:
        """Sequences end together, for they are padded on the left."""
        prompts, answers, counted, positive = (list(chain.from_iterable(parts)) for parts in zip(*made, strict=True))
        batch = self.teacher_batch(prompts, answers)
        width = batch["labels"].shape[1]
        mask = pad([[0] * (width - len(c)) + [int(x) for x in c] for c in counted], 0, "left")
        owners = [n for n, part in enumerate(made) for _ in part.prompts]
        return {**batch, "counted": mask.bool(), "positive": torch.tensor(positive), "item": torch.tensor(owners)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Added up over the items."""
        logits, labels = self.answer_logits(model, batch)
        counted = batch["counted"][:, 1:]
        flat = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
        likelihood = flat.view_as(labels)
        unlikelihood = -torch.log(torch.clamp(-torch.expm1(-likelihood), min=LEAST))
        positive = batch["positive"][:, None]
        parts = [(likelihood, counted & positive, 1.0), (unlikelihood, counted & ~positive, self.cfg.unlikelihood)]
        total = torch.zeros((), device=logits.device)
        for n in range(len(batch["ids"])):
            own = (batch["item"] == n)[:, None]
            for losses, chosen, weight in parts:
                if bool((chosen & own).any()):
                    total = total + weight * losses[chosen & own].mean()
        return total

    def predict(self, model: nn.Module, batch: Batch) -> list[Prediction]:
        """The answers to the numbers 1, 2, ..., in their order; one without a word is left out. All texts are kept, as
        JSON."""
        count = self.cfg.responses
        names = [f"{i}#{k}" for i in batch["ids"] for k in range(1, count + 1)]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "ids": names}
        texts = self.tokenizer.batch_decode(self.generated(model, inputs), skip_special_tokens=True)
        found = []
        for place, id_ in enumerate(batch["ids"]):
            own = texts[place * count : (place + 1) * count]
            said = tuple(line for text in own if (line := " ".join(text.split())))
            found.append(Prediction(id_, said or None, answer=json.dumps(own, ensure_ascii=False)))
        return found


def content_words(text: str) -> Iterator[int]:
    """Where the content words of a text begin: those between spaces that are neither function words nor punctuation,
    with punctuation left out or not; behind punctuation at their beginning."""
    for found in re.finditer(r"\S+", text):
        word = found[0]
        lead = len(word) - len(re.sub(r"^\W+", "", word))
        if lead < len(word) and not {word, re.sub(r"[^\w\s]", "", word).lower()} & COMMON:
            yield found.start() + lead
