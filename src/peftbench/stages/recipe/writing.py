"""Texts that a causal model writes behind prompts, sampled; the same for a prompt in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TopPLogitsWarper,
)

from peftbench.config import compose
from peftbench.formulations.generate.decoding import Draw
from peftbench.formulations.generate.formulation import new_tokens
from peftbench.formulations.text import pad_inputs, prompt_start
from peftbench.models import load_backbone

BATCH = 8


@dataclass
class Cost:
    """What writing took."""

    calls: int = 0
    prompt_tokens: int = 0
    written_tokens: int = 0

    def facts(self) -> dict[str, float]:
        """The counts by name, as a stage reports them."""
        return {name: float(value) for name, value in vars(self).items()}


class LineWritten(StoppingCriteria):
    """Ends a text with its first line that says something, which is all that is read of it.

    Args:
        start: places of the prompts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        self.tokenizer, self.start = tokenizer, start

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)


class Author:
    """`model=NAME`, a causal model, as it is, that writes single lines.

    Raises:
        UsageError: it cannot be had.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            self.backbone = load_backbone(compose([f"model={name}"]).model, "lm", dropout=0.0)
        self.model = self.backbone.model.to(device).eval()  # type: ignore[arg-type]
        self.device, self.cost = device, Cost()

    @torch.no_grad()
    def __call__(
        self, ids: Sequence[str], prompts: Sequence[str], *, tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[str]:
        """What stands behind each prompt up to the end of a line that says something, at most `tokens` of it; draws
        follow from `seed` and the prompt's id."""
        found: list[str] = []
        for start in range(0, len(prompts), BATCH):
            part = slice(start, start + BATCH)
            found += self._written(ids[part], prompts[part], tokens, temperature, top_p, seed)
        return found

    def _written(
        self, ids: Sequence[str], prompts: Sequence[str], tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[str]:
        tokenizer = self.backbone.tokenizer
        sequences = [prompt_start(tokenizer, prompt) for prompt in prompts]
        inputs = {name: x.to(self.device) for name, x in pad_inputs(sequences, tokenizer, "left").items()}
        chosen = LogitsProcessorList([Draw(ids, seed, temperature)])
        if top_p < 1:
            chosen.insert(0, TopPLogitsWarper(top_p))
        out = self.model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=tokens, do_sample=False, num_beams=1, pad_token_id=tokenizer.pad_token_id,
            logits_processor=chosen,
            stopping_criteria=StoppingCriteriaList([LineWritten(tokenizer, inputs["input_ids"].shape[1])]),
        )  # fmt: skip
        written = new_tokens(out, inputs["input_ids"])
        self.cost.calls += len(prompts)
        self.cost.prompt_tokens += sum(map(len, sequences))
        self.cost.written_tokens += int((written != tokenizer.pad_token_id).sum())
        return list(tokenizer.batch_decode(written, skip_special_tokens=True))


def first_line(text: str) -> str:
    """The first line that says something, white space made single spaces."""
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
