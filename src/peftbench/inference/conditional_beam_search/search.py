"""Answers by beam search with an attribute that is learned from what the model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.formulations.base import Batch, Prediction
from peftbench.formulations.generate.formulation import GenerateFormulation
from peftbench.formulations.scoring import network_of, read_prompts
from peftbench.inference.base import Ask, Inference
from peftbench.inference.conditional_beam_search import COMPLETE, LENGTH
from peftbench.inference.conditional_beam_search.beams import Beams, Found, Settings
from peftbench.inference.variants import variant
from peftbench.learner import Learner
from peftbench.tasks.base import Row

LEAST = 2
"""Prefixes of either kind without which nothing is learned."""


class Attribute:
    """log p(attribute | prefix) by a logistic regression on hidden states, standardised.

    Args:
        hidden: (prefixes, d); has: (prefixes,), whether the finished answer has the attribute.
    """

    def __init__(self, hidden: np.ndarray, has: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression

        self.mean, self.scale = hidden.mean(0), hidden.std(0) + 1e-6
        self.model = LogisticRegression(C=0.1, max_iter=1000).fit((hidden - self.mean) / self.scale, has)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(prefixes,) on the CPU."""
        scaled = (hidden.cpu().double().numpy() - self.mean) / self.scale
        return torch.from_numpy(self.model.predict_log_proba(scaled)[:, 1]).float()


class ConditionalBeamSearch(Inference):
    """`conditional_beam_search.yaml` explains the options."""

    def __init__(self, cfg: Any, learner: Learner) -> None:
        super().__init__(cfg, learner)
        formulation = learner.formulation
        assert isinstance(formulation, GenerateFormulation)
        if not formulation.takes_cache:
            raise UsageError("method/inference=conditional_beam_search: this tuner's network takes no cache.")
        self.formulation = formulation
        self.learns = cfg.attribute != LENGTH and cfg.weight > 0
        self.needs_shots = self.learns
        self.attribute: Attribute | None = None
        self.notes: list[str] = []
        most = formulation.answer_length if cfg.length is None else cfg.length + 1
        weight = cfg.weight if self.learns else 0.0
        self.settings = Settings(cfg.beams, cfg.candidates, weight, most, formulation.eos, cfg.length)

    def answer(self, rows: Sequence[Row], ask: Ask) -> list[Prediction]:
        cfg = self.cfg
        if not rows or (cfg.beams == 1 and not cfg.weight and cfg.attribute != LENGTH):
            return ask(rows)
        if self.learns and self.attribute is None and not self.notes:
            self._learn(ask)
        return ask(rows, self._searched)

    def _searched(self, batch: Batch) -> list[Prediction]:
        found = []
        for number, id_ in enumerate(batch["ids"]):
            best = self.search(batch["input_ids"][number], batch["attention_mask"][number].bool())
            text = str(self.formulation.tokenizer.decode(list(best.ids), skip_special_tokens=True))
            label = self.formulation.read(text, self.formulation.task.part(batch["domains"][number]))
            found.append(Prediction(id_, label, answer=text))
            self.sums["answers"] += 1
            self.sums["ended"] += best.ended
            self.sums["log_p"] += best.log_p  # type: ignore[assignment]
        return found

    def search(self, ids: Tensor, real: Tensor) -> Found:
        """The best answer behind a prompt, (n,) ids of which the `real` ones are no padding."""
        model = self.learner.model
        prompt = {"input_ids": ids[real][None], "attention_mask": torch.ones_like(ids[real])[None]}
        read = read_prompts(model, network_of(model), prompt, None)
        if read is None or any(layer.is_sliding for layer in read.cache.layers):
            raise UsageError("method/inference=conditional_beam_search: this network caches no whole text.")
        settings = self.settings
        if self.attribute is None and settings.weight:
            settings = Settings(settings.beams, settings.candidates, 0.0, settings.most, settings.end)
        return Beams(read, settings, self.attribute or _certain, self._has).best()

    def _has(self, ids: Sequence[int]) -> bool:
        """Whether a finished answer, its end left out, has the attribute."""
        if self.cfg.attribute == COMPLETE:
            return True
        text = str(self.formulation.tokenizer.decode(list(ids), skip_special_tokens=True))
        return self.formulation.read(text, self.formulation.task) is not None

    def _learn(self, ask: Ask) -> None:
        """From every prefix of several samples for each drawn row: whether the finished sample has the attribute."""
        rows, cfg = list(self.formulation.shots), self.cfg
        writer = variant(self.learner, ask, rows[0], sample=True, temperature=cfg.temperature, sample_seed=cfg.seed)
        hidden: list[Tensor] = []
        has: list[bool] = []
        for number in range(cfg.samples):
            ask(rows, lambda batch, number=number: self._prefixes(writer, batch, number, hidden, has), writer)  # type: ignore[misc]
        self.sums["prefixes"], self.sums["with_attribute"] = len(has), sum(has)
        if min(sum(has), len(has) - sum(has)) < LEAST:
            self.notes.append(
                f"conditional beam search: {sum(has)} of {len(has)} prefixes of samples have the attribute, so nothing "
                "was learned and the search is a plain one"
            )
            return
        self.attribute = Attribute(torch.cat(hidden).double().numpy(), np.array(has))

    def _prefixes(
        self, writer: Learner, batch: Batch, number: int, hidden: list[Tensor], has: list[bool]
    ) -> list[Prediction]:
        formulation, end = writer.formulation, self.formulation.eos
        assert isinstance(formulation, GenerateFormulation)
        names = [f"{id_}#{number}" for id_ in batch["ids"]]
        written = formulation.generated(writer.model, {**batch, "ids": names}).tolist()
        for place, ids in enumerate(written):
            own = ids[: ids.index(end)] if end in ids else ids
            mask = batch["attention_mask"][place].bool()
            whole = torch.cat([batch["input_ids"][place][mask], torch.tensor(own, device=mask.device).long()])[None]
            if not own:
                continue
            out = writer.model(
                input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False, output_hidden_states=True
            )
            hidden.append(out.hidden_states[-1][0, -len(own) :].float().cpu())
            has += [end in ids and self._has(own)] * len(own)
        return [Prediction(id_, None) for id_ in batch["ids"]]

    def facts(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`log_p`, the mean log-probability of the answers (their ends included, where they have ended); `ended`, the
        share that has; `prefixes` that the attribute was learned from, and how many are `with_attribute`."""
        count = max(sums.get("answers", 0), 1)
        found = {"log_p": sums.get("log_p", 0) / count, "ended": sums.get("ended", 0) / count}
        return found | {name: sums[name] for name in ("prefixes", "with_attribute") if name in sums}

    def remarks(self) -> list[str]:
        return self.notes


def _certain(hidden: Tensor) -> Tensor:
    """Every prefix has the attribute."""
    return torch.zeros(len(hidden))
