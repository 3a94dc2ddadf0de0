"""Who writes parts of prompts: a causal model on this machine, or one behind an HTTP interface."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from peftbench.formulations.generate.decoding import Draw
from peftbench.formulations.text import chat_start, prompt_start
from peftbench.models.remote import Completion
from peftbench.stages.prompt_search import OWN, REMOTE, PromptSearchOptions
from peftbench.stages.remote.server import http_model

_TAGGED = re.compile(r"<text>(.*?)(?:</text>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


class Author(Protocol):
    """Somebody who writes."""

    def __call__(self, question: str, number: int) -> Completion:
        """The answer to the `number`-th question; the same for the same question and number."""


def text_in(answer: str) -> str:
    """What stands between <text> and </text>, else in the first fence of backticks, else all of it; what cannot be
    printed is left out."""
    answer = "".join(letter for letter in answer if letter.isprintable() or letter == "\n")
    for pattern in (_TAGGED, _FENCED):
        if (found := pattern.search(answer)) and found[1].strip():
            return found[1].strip()
    return answer.replace("<text>", "").replace("</text>", "").strip()


@dataclass
class RemoteAuthor:
    """A model behind HTTP; each question has a seed of its own."""

    cfg: PromptSearchOptions
    seed: int

    def __call__(self, question: str, number: int) -> Completion:
        return http_model(self.cfg, self.seed + number).complete(question)


@dataclass
class LocalAuthor:
    """A causal model; of one with a chat template the question is the user's turn. A question that leaves no room for
    an answer loses its beginning.

    Attributes:
        room: positions of the network; None if it has no end.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    cfg: PromptSearchOptions
    seed: int
    room: int | None = None

    @torch.no_grad()
    def __call__(self, question: str, number: int) -> Completion:
        chats = getattr(self.tokenizer, "chat_template", None) is not None
        ids = (chat_start if chats else prompt_start)(self.tokenizer, question)
        if self.room is not None:
            ids = ids[-max(self.room - self.cfg.max_tokens, 1) :]
        asked = torch.tensor([ids], device=next(self.model.parameters()).device)
        sampled = [Draw([f"question:{number}"], self.seed, self.cfg.temperature)] if self.cfg.temperature else []
        was_training = self.model.training
        self.model.eval()
        out = self.model.generate(  # type: ignore[operator]
            input_ids=asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=self.cfg.max_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList(sampled),
        )[0, len(ids) :]
        self.model.train(was_training)
        text = str(self.tokenizer.decode(out, skip_special_tokens=True))
        return Completion(text, len(ids), len(out))


def author(cfg: PromptSearchOptions, own: LocalAuthor, seed: int) -> Author:
    """The one that the options name; `own` is the run's model."""
    if cfg.writer == REMOTE:
        return RemoteAuthor(cfg, seed)
    if cfg.writer == OWN:
        return own
    from peftbench.config import compose
    from peftbench.models import load_backbone

    with torch.random.fork_rng():
        backbone = load_backbone(compose([f"model={cfg.writer}"]).model, "lm", dropout=0.0)
    device = next(own.model.parameters()).device
    return LocalAuthor(backbone.model.to(device), backbone.tokenizer, cfg, seed, backbone.max_positions)  # type: ignore[arg-type]
