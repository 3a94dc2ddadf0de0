"""Hidden-state optimisation of a prompt, before labels are scored behind it.

Of the paper's few-shot recipe only the outline is known to us (arXiv 2112.08653, 2408.16241). Our readings: the prompt
is one segment; its keys and values are leaves, so that a step moves each by the derivative of the loss as if no other
followed from it; the loss is the sum over the prompt's tokens, or over those of the demonstrations' answers; after the
last step the prompt's queries are computed once more, so that the first token of a label is scored behind what moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.formulations.base import PROMPT_TEXT, SHOWN_ANSWERS, Batch, Prediction
from peftbench.formulations.prompted.formulation import Prompted
from peftbench.formulations.score.formulation import ScoreFormulation
from peftbench.formulations.scoring import MARKS, Read
from peftbench.inference.base import Ask, Inference
from peftbench.inference.hidden_state_optimisation import ALL, DEMO_LABELS
from peftbench.inference.hidden_state_optimisation.states import States, reading
from peftbench.learner import Learner
from peftbench.tasks.base import Row


class HiddenStateOptimisation(Inference):
    """`hidden_state_optimisation.yaml` explains the options."""

    def __init__(self, cfg: Any, learner: Learner) -> None:
        super().__init__(cfg, learner)
        formulation = learner.formulation
        assert isinstance(formulation, ScoreFormulation)
        if not formulation.takes_cache:
            raise UsageError(
                "method/inference=hidden_state_optimisation: what this tuner makes of the network takes no cache."
            )
        self.formulation = formulation

    def answer(self, rows: Sequence[Row], ask: Ask) -> list[Prediction]:
        if not self.cfg.steps or not self.cfg.rate:
            return ask(rows)
        self.formulation.change_read = self.change
        try:
            return ask(rows, self._predict)
        finally:
            self.formulation.change_read = None

    def _predict(self, batch: Batch) -> list[Prediction]:
        marks = batch["attention_mask"] if self.cfg.loss_on == ALL else self._shown_answers(batch)
        return self.learner.predict({**batch, MARKS: marks})

    def _shown_answers(self, batch: Batch) -> Tensor:
        """(batch, n), 1 at the tokens of the demonstrations' answers."""
        formulation, marks = self.formulation, torch.zeros_like(batch["attention_mask"])
        assert isinstance(formulation, Prompted)
        for number, (text, spans) in enumerate(zip(batch[PROMPT_TEXT], batch[SHOWN_ANSWERS], strict=True)):
            places = torch.tensor(formulation.places(text, spans), device=marks.device)
            marks[number, -len(places) :] = places.to(marks.dtype)
        return marks

    def change(self, read: Read, part: Mapping[str, Tensor]) -> None:
        """Move what is cached of the prompts in `read`, and put what then stands behind them into its place.

        Raises:
            UsageError: the network keeps a window of the prompt alone.
        """
        cfg, layers = self.cfg, list(read.cache.layers)
        if any(layer.is_sliding for layer in layers):
            raise UsageError(
                "method/inference=hidden_state_optimisation: the network caches a window of the text. Use one that "
                "attends to the whole, such as model=smollm2-135m."
            )
        states = States([t for layer in layers for t in (layer.keys, layer.values)])
        chosen = range(len(layers) // 2 if cfg.layers == "last_half" else 0, len(layers))
        losses = []
        for _ in range(cfg.steps):
            with torch.enable_grad():
                leaves = states.leaves(chosen)
                _, loss = self._pass(read, part, states)
                losses.append(loss.detach())
                gradients = torch.autograd.grad(loss.sum(), leaves)
            states.step(gradients, cfg.rate, chosen)
        read.first, after = self._pass(read, part, states)
        for layer, keys, values in zip(layers, states.tensors[::2], states.tensors[1::2], strict=True):
            layer.keys, layer.values = keys.to(layer.keys.dtype), values.to(layer.values.dtype)
        self._count(losses[0], after, part)

    def _pass(self, read: Read, part: Mapping[str, Tensor], states: States) -> tuple[Tensor, Tensor]:
        """Logits (batch, 1, vocabulary) behind the prompts, and the loss of each, (batch,): minus the sum of the
        log-probabilities of its marked tokens but the first, which stands behind nothing."""
        ids, mask = part["input_ids"], part["attention_mask"]
        with reading(read.network, states.tensors):
            logits = read.model(input_ids=ids, attention_mask=mask, use_cache=True).logits
        own = logits[:, self.formulation.virtual_tokens :]
        wanted = ids[:, 1:].masked_fill((part[MARKS][:, 1:] * mask[:, :-1]) == 0, -100)
        losses = F.cross_entropy(own[:, :-1].float().flatten(0, 1), wanted.flatten(), reduction="none")
        return logits[:, -1:].detach(), losses.view_as(wanted).sum(1)

    def _count(self, before: Tensor, after: Tensor, part: Mapping[str, Tensor]) -> None:
        self.sums["prompts"] += len(before)
        self.sums["lower"] += int((after < before).sum())
        self.sums["tokens"] += int((part[MARKS][:, 1:] * part["attention_mask"][:, :-1]).sum())
        self.sums["before"] += float(before.sum())  # type: ignore[assignment]
        self.sums["after"] += float(after.sum())  # type: ignore[assignment]

    def facts(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`loss_before`, `loss_after`: nats a token of the loss, before the first step and after the last; `lower`: the
        share of prompts whose loss has fallen."""
        tokens, prompts = max(sums.get("tokens", 0), 1), max(sums.get("prompts", 0), 1)
        means = {f"loss_{name}": sums.get(name, 0) / tokens for name in ("before", "after")}
        return {**means, "lower": sums.get("lower", 0) / prompts}

    def remarks(self) -> list[str]:
        if self.cfg.loss_on == DEMO_LABELS:
            return []
        return ["hidden states were moved by a loss that the asked row's own text, not its label, is a part of"]
