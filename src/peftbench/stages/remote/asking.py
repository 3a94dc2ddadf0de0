"""Rows answered by a remote model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from peftbench.errors import UsageError
from peftbench.formulations import check_style
from peftbench.formulations.predictions import Prediction
from peftbench.formulations.prompted import PromptedConfig
from peftbench.formulations.prompts import Writer, prompt_set
from peftbench.formulations.prompts.maker import PromptMaker
from peftbench.formulations.reading import LabelReader
from peftbench.models.remote import Completion, HttpModel, RemoteModel
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.remote import RemoteOptions
from peftbench.stages.remote.server import check_server, http_model
from peftbench.tasks.base import Row, TaskData

BYTES = 3
"""Of a text that count as a token, where the tokenizer is not known."""


def ask(context: Context, incoming: Predictor | None) -> RemotePredictor:
    """Nothing is asked before there are rows to answer."""
    context.reports.append(StageReport("remote"))
    return RemotePredictor(context, models(context))


def check(context: Context) -> None:
    """Raises UsageError if there is no server to ask, or nothing that it could answer."""
    cfg, formulation = options(context), context.cfg.method.formulation
    check_server(cfg, "method.remote")
    if not isinstance(formulation, PromptedConfig):
        raise UsageError("method.stages=[remote]: asks written prompts. Use method/formulation=prompted.")
    kind = context.data.kind
    if kind.write is None:
        raise UsageError(
            f"method=remote: task {context.data.name} asks for {kind.name}, and a remote model's answers are texts."
        )
    check_style(formulation, kind.name)
    if formulation.samples > 1 and (kind.pool is None or not cfg.temperature):
        raise UsageError(
            f"method.formulation.samples={formulation.samples}: "
            + (f"several {kind.name} answers do not make one." if kind.pool is None else
               "at method.remote.temperature=0 a server gives the same answer each time. Set one above 0.")
        )  # fmt: skip
    maker(context)


def options(context: Context) -> RemoteOptions:
    """`method.remote`."""
    found: RemoteOptions = context.cfg.method.options("remote")
    return found


def models(context: Context) -> list[HttpModel]:
    """The server for each sample that an answer is made of; each has a seed of its own, from the run's on."""
    return [http_model(options(context), context.cfg.seed + sample) for sample in range(posed(context).samples)]


def posed(context: Context) -> PromptedConfig:
    """`method.formulation`."""
    found = context.cfg.method.formulation
    assert isinstance(found, PromptedConfig)
    return found


class ByteTokenizer:
    """Stands in for a tokenizer that is not known."""

    is_fast = False

    def __call__(self, text: str, **_: Any) -> dict[str, range]:
        return {"input_ids": range(-(-len(text.encode()) // BYTES))}


def maker(context: Context) -> PromptMaker:
    """Makes the prompts, of the draw's rows."""
    cfg, data = posed(context), context.data
    writer, tokenizer = Writer(prompt_set(cfg.prompts), cfg.prompt_number, data), ByteTokenizer()
    return PromptMaker(
        writer,
        cfg,
        context.draw.train,
        partial(answer_text, data, cfg.answers, writer),
        seed=context.cfg.seed,
        room=cfg.max_length or context.cfg.trainer.max_length,
        size_of=lambda text: len(tokenizer(text)["input_ids"]),
        tokenizer=tokenizer,
        similar=_similar(cfg),
    )


def answer_text(data: TaskData, style: str, writer: Writer, target: Any) -> str:
    """What stands for a target in a demonstration: a label's word in these prompts, else as its kind is written."""
    if data.kind.parse is None:
        return writer.words[str(target)]
    assert data.kind.write is not None
    return data.kind.write(target, data, style)


def _similar(cfg: PromptedConfig) -> Callable[[Sequence[str]], Any] | None:
    if (encoder := cfg.second_model()) is None:
        return None
    from peftbench.formulations.bi_encoder import sentence_vectors  # torch

    return sentence_vectors(encoder)


class RemotePredictor(Predictor):
    """A remote model with prompts; what it costs is counted.

    Args:
        models: the model for each sample that a row's answer is made of.
    """

    def __init__(self, context: Context, models: Sequence[RemoteModel]) -> None:
        self.context, self.models, self.maker = context, models, maker(context)
        self.labels = LabelReader(self.maker.writer.words)
        self.spent: Counter[str] = Counter()
        self.asked: dict[str, str] = {}

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        prompts = [made.text for made in self.maker(rows)]
        self.asked |= {row.id: text for row, text in zip(rows, prompts, strict=True)}
        with ThreadPoolExecutor(options(self.context).parallel) as pool:
            answers = [list(pool.map(partial(self._complete, model), prompts)) for model in self.models]
        for answer in chain.from_iterable(answers):
            self._count(answer)
        texts = zip(*([answer.text for answer in sample] for sample in answers), strict=True)
        return [self._prediction(row.id, said) for row, said in zip(rows, texts, strict=True)]

    def _prediction(self, id_: str, texts: Sequence[str]) -> Prediction:
        """What one text says, or several together, which are kept as JSON."""
        pool = self.context.data.kind.pool
        if len(texts) == 1:
            return Prediction(id_, self.read(texts[0]), answer=texts[0])
        assert pool is not None
        return Prediction(id_, pool(list(map(self.read, texts))), answer=json.dumps(texts, ensure_ascii=False))

    def read(self, text: str) -> Any:
        """A label that the text names, or what the parser of the kind makes of it; None if it is neither."""
        data = self.context.data
        if (parse := data.kind.parse) is None:
            return self.labels(text)
        return parse(text, data, posed(self.context).answers)

    def _complete(self, model: RemoteModel, prompt: str) -> Completion:
        self.context.attempt.check()
        return model.complete(prompt)

    def _count(self, answer: Completion) -> None:
        self.spent["remote_cached"] += answer.cached
        if not answer.cached:
            self.spent["remote_calls"] += 1 + answer.retries
            self.spent["remote_retries"] += answer.retries
            self.spent["remote_prompt_tokens"] += answer.prompt_tokens
            self.spent["remote_completion_tokens"] += answer.completion_tokens

    def costs(self) -> dict[str, float]:
        names = ("calls", "retries", "cached", "prompt_tokens", "completion_tokens")
        return {f"remote_{name}": float(self.spent[f"remote_{name}"]) for name in names}

    def counts(self) -> dict[str, int]:
        return {"module": 0, "head": 0, "total": 0}

    def prompts(self) -> dict[str, str]:
        return self.asked

    def remarks(self) -> list[str]:
        cfg, spent = options(self.context), self.spent
        return [
            f"answered by {cfg.model} at {cfg.url}: {spent['remote_calls']} calls, {spent['remote_prompt_tokens']} and "
            f"{spent['remote_completion_tokens']} tokens; {spent['remote_cached']} answers were known already",
            *self.maker.notes(),
            *self.labels.remarks(),
            *self._short(cfg.max_tokens),
        ]

    def _short(self, tokens: int) -> list[str]:
        kind = self.context.data.kind
        short = kind.parse is not None and tokens < kind.room
        return [f"answers had {tokens} tokens (method.remote.max_tokens); {kind.room} are usual"] if short else []

    def save(self, folder: Path) -> None:
        """There is nothing to save."""
