"""Tasks that are answered in words: prompts, answers as token ids, and the log-likelihoods of answers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError
from peftbench.formulations.base import PROMPT_TEXT, SHOWN_ANSWERS, Batch, Encoded, Formulation
from peftbench.formulations.fitting import Cut, Texts, fit_texts
from peftbench.formulations.generate import snippet
from peftbench.formulations.scoring import network_of
from peftbench.formulations.text import chat_start, pad, pad_inputs, prompt_start, text_to_text_input
from peftbench.models.architecture import accepts
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row, TaskData, bare_task, text_fields

IGNORE = -100
ANSWER_CUE = "\nanswer:"
"""Ends the prompt of a causal model; an encoder-decoder needs none."""


class TextFormulation(Formulation):
    """Shared by `generate` and `score`: prompts, answers as token ids, and log-likelihoods of answers.

    An encoder-decoder reads the prompt in its encoder and writes the answer in its decoder; a causal model reads
    prompt and answer in one sequence, and only the answer's tokens are counted in the loss. The answer ends with the
    end-of-sequence token. Where a prompt is too long its longest text gives way; field names and cue stay.
    """

    purpose = "lm"

    def __init__(self, backbone: Backbone, task: TaskData, max_length: int, cfg: FormulationConfig) -> None:
        super().__init__(backbone, task, max_length, cfg)
        self.encoder_decoder = backbone.family == "seq2seq"
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise UsageError(
                f"model={backbone.name}: its tokenizer has no end-of-sequence token, so no answer would end. Use "
                "method/formulation=head, or a model whose tokenizer has one, such as model=smollm2-135m."
            )
        self.eos = int(eos)
        self.backbone_prefix = backbone.prefix
        self.prefix = self.prefix_for(task)
        self.options = cfg
        self.chat = cfg.prompt == "chat"
        if self.chat and getattr(self.tokenizer, "chat_template", None) is None:
            raise UsageError(
                f"method.formulation.prompt=chat: the tokenizer of model={backbone.name} has no chat template. Use "
                "prompt=plain, or an instruction-tuned model such as model=qwen2.5-0.5b-instruct."
            )
        words = {label: self.answer_text(label) for label in task.labels}
        self.label_ids = {label: self.answer_ids(word) for label, word in words.items()}
        """Label name -> token ids of its words, the end-of-sequence token included."""
        self.cue_text = "" if self.encoder_decoder or self.chat else ANSWER_CUE
        self.cue = self.ids_of(self.cue_text)
        self.texts = {label: self.text_of(ids) for label, ids in self.label_ids.items()}
        """Label name -> its words as this tokenizer writes them back."""
        check_answers(words, self.label_ids, self.texts, self.tokenizer.unk_token_id, backbone.name)
        room = min(task.kind.room, max_length // 2)
        self.answer_length = max((len(ids) for ids in self.label_ids.values()), default=room)
        """Tokens that generation may take: the longest label, so that a longer text is seen to be none."""

    def varied(self, backbone: Backbone, task: TaskData | None = None, **changes: Any) -> TextFormulation:
        """The same formulation with other options, or of another form of the task; what it has measured or trained is
        not taken over."""
        return type(self)(backbone, task or self.task, self.max_length, replace(self.options, **changes))

    def prefix_for(self, task: TaskData) -> str:
        """What stands in front of a row of the task: the backbone's prefix, then the instruction."""
        return self.backbone_prefix + (f"{task.instruction}\n" if task.instruction else "")

    def answer_text(self, target: str | float, task: TaskData | None = None) -> str:
        """What the model should write for a target; `task`: the part of a mixture that it belongs to."""
        write = self.task.kind.write
        assert write is not None, f"task {self.task.name}: {self.task.problem} is a kind of targets that is not written"
        return write(target, task or self.task, self.options.answers)

    def row_answer(self, row: Row) -> str:
        """What the model should write for a row."""
        return self.answer_text(row.target, self.task.part(row.domain))  # type: ignore[arg-type]

    def answer_ids(self, words: str) -> list[int]:
        """Token ids of an answer, ended by end-of-sequence. A causal answer follows its cue after a space, in a chat it
        begins the assistant's turn."""
        return [*self.ids_of(f"{self.space}{words}"), self.eos]

    @property
    def space(self) -> str:
        """What stands in front of an answer."""
        return "" if self.encoder_decoder or self.chat else " "

    def start_ids(self, text: str) -> list[int]:
        """Ids of a causal model's prompt, up to its cue."""
        return chat_start(self.tokenizer, text) if self.chat else prompt_start(self.tokenizer, text)

    def ids_of(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def label_tokens(self) -> dict[str, list[str]]:
        return {label: list(self.tokenizer.convert_ids_to_tokens(ids[:-1])) for label, ids in self.label_ids.items()}

    def text_of(self, ids: list[int]) -> str:
        """What the model says with these ids, in text: the spaces around it are not part of it."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def prompts_of(self, rows: Sequence[Row]) -> Iterable[tuple[list[int], Cut, dict[str, Any]]]:
        """Of each row the prompt's ids, what became of its texts, and what else an item of it holds."""
        return ((*self.prompt_ids(row), {}) for row in rows)

    def prompt_ids(self, row: Row) -> tuple[list[int], Cut]:
        """At most `max_length` token ids, and what became of the row's texts. For a causal model the answer still has
        to fit behind them."""
        task = self.task.part(row.domain)
        ids_of = partial(self._prompt, prefix=self.prefix_for(task))
        texts, cut = fit_texts(text_fields(row, task), ids_of, self.prompt_room(), self.tokenizer)
        return ids_of(texts), cut

    def prompt_room(self) -> int:
        """Tokens that a prompt may take: behind a causal model's the answer still has to fit."""
        return self.max_length - (0 if self.encoder_decoder else self.answer_length)

    def _prompt(self, texts: Texts, prefix: str) -> list[int]:
        text = text_to_text_input(texts, prefix)
        if self.encoder_decoder:
            ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
            return ids
        return [*self.start_ids(text), *self.cue]

    def text_names(self, pairs: bool) -> list[str]:
        fields = list(self.task.fields)
        return fields if len(fields) > 2 else fields[: 1 + pairs]

    def exported_prompt(self, pairs: bool) -> snippet.Prompt:
        """The same prompt for the code of an exported folder."""
        names, room, causal = self.text_names(pairs), self.prompt_room(), not self.encoder_decoder
        return snippet.Prompt(names, self.prefix, room, causal, self.chat, self.cue_text)

    def tokens_depend_on(self) -> Hashable | None:
        """Of the classes alone that say so themselves: others have prompts of their own."""
        if not vars(type(self)).get("plain_prompts"):
            return None
        return self.max_length, self.prefix, repr(self.options), repr(bare_task(self.task)), self.answer_length

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        items = []
        for row, (prompt, cut, more) in zip(rows, self.prompts_of(rows), strict=True):
            answer = None
            if row.target is not None:
                answer = self.answer_ids(self.row_answer(row))
            length = len(prompt) + (0 if self.encoder_decoder else len(answer or ()))
            data = {"prompt": prompt, "answer": answer, "domain": row.domain, "text": row.text, **more}
            items.append(Encoded(row.id, length, float(len(answer or (0,))), data, cut))
        return items

    def collate(self, items: Sequence[Encoded]) -> Batch:
        prompts = [i.data["prompt"] for i in items]
        batch: Batch = {"ids": [i.id for i in items]}
        batch |= {f"{name}s": [i.data[name] for i in items] for name in ("domain", "text")}
        batch |= {name: [i.data.get(name) for i in items] for name in (PROMPT_TEXT, SHOWN_ANSWERS)}
        batch.update(pad_inputs(prompts, self.tokenizer, self._prompt_side()))
        if items and all(i.data["answer"] is not None for i in items):
            batch.update(self.teacher_batch(prompts, [i.data["answer"] for i in items]))
        return batch

    def _prompt_side(self) -> str:
        return "right" if self.encoder_decoder else "left"

    def teacher_batch(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Batch:
        """Tensors for teacher forcing: `lm_input_ids`, `lm_attention_mask` and `labels` (ignored places -100).

        Causal models get prompt and answer in one left-padded sequence; `labels` is aligned with it.
        """
        if self.encoder_decoder:
            inputs = pad_inputs(prompts, self.tokenizer, "right")
            labels = pad(answers, IGNORE, "right")
        else:
            both = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
            inputs = pad_inputs(both, self.tokenizer, "left")
            labels = pad([[IGNORE] * len(p) + list(a) for p, a in zip(prompts, answers, strict=True)], IGNORE, "left")
        return {
            "lm_input_ids": inputs["input_ids"],
            "lm_attention_mask": inputs["attention_mask"],
            "labels": labels,
        }

    def answer_logits(self, model: nn.Module, batch: Batch, prompts: bool = True) -> tuple[Tensor, Tensor]:
        """(batch, positions, vocabulary) logits under teacher forcing, and the (batch, positions) ids that they are to
        predict, -100 at ignored places. Without `prompts` a causal network's output layer leaves their places out, if
        it can: equal up to rounding, and cheaper by the vocabulary."""
        inputs = {"input_ids": batch["lm_input_ids"], "attention_mask": batch["lm_attention_mask"]}
        labels = batch["labels"]
        if self.encoder_decoder:
            start = self.decoder_start(model)
            shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
            decoder_inputs = shifted.masked_fill(shifted == IGNORE, int(self.tokenizer.pad_token_id or 0))
            logits = model(**inputs, decoder_input_ids=decoder_inputs).logits
        else:
            if self.pass_answer_starts:
                inputs["answer_starts"] = (labels != IGNORE).int().argmax(1, keepdim=True)
            if not prompts and accepts(network_of(model), "logits_to_keep"):
                kept = 1 + int((labels != IGNORE).sum(1).max())  # answers stand at the right end
                logits, labels = model(**inputs, logits_to_keep=kept).logits, labels[:, -kept:]
            else:
                logits = model(**inputs).logits[:, self.virtual_tokens :]
            logits, labels = logits[:, :-1], labels[:, 1:]
        return logits, labels

    def words_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        mask = batch["lm_attention_mask"]
        return batch["lm_input_ids"], mask if self.encoder_decoder else mask * (batch["labels"] == IGNORE)

    def token_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, positions) negative log-likelihood of each answer token, 0 at ignored places."""
        logits, labels = self.answer_logits(model, batch)
        # Flat: along any dimension but the last torch adds the vocabulary up one by one, which costs three digits.
        losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
        return losses.view_as(labels)

    @staticmethod
    def decoder_start(model: nn.Module) -> int:
        return int(model.config.decoder_start_token_id)  # type: ignore[union-attr, arg-type]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.token_losses(model, batch).sum()


def check_answers(
    words: Mapping[str, str],
    ids: Mapping[str, Sequence[int]],
    texts: Mapping[str, str],
    unknown: int | None,
    model: str,
) -> None:
    """Raises UsageError unless the tokenizer knows every label's words and can tell them apart."""
    seen: dict[str, str] = {}
    for label, word in words.items():
        way_out = f"Choose another with task.label_words.{label}=WORD, or a model of the word's language."
        if unknown in ids[label] or not texts[label]:
            shown = f" (it reads `{texts[label]}`)" if texts[label] else ""
            raise UsageError(f"model={model}: its tokenizer does not know the label word `{word}`{shown}. {way_out}")
        if texts[label] in seen:
            other = seen[texts[label]]
            raise UsageError(
                f"model={model}: `{words[other]}` of `{other}` and `{word}` of `{label}` are the same answer, "
                f"`{texts[label]}`, for its tokenizer. {way_out}"
            )
        seen[texts[label]] = label
