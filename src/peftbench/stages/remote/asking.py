"""Rows answered by a remote model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peftbench.errors import UsageError
from peftbench.formulations.predictions import Prediction
from peftbench.formulations.prompted import PromptedConfig
from peftbench.formulations.prompts import Writer, prompt_set
from peftbench.formulations.prompts.maker import PromptMaker
from peftbench.formulations.reading import LabelReader
from peftbench.models.remote import Completion, HttpModel, RemoteModel
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.remote import RemoteOptions
from peftbench.tasks.base import Row

BYTES = 3
"""Of a text that count as a token, where the tokenizer is not known."""


def ask(context: Context, incoming: Predictor | None) -> RemotePredictor:
    """Nothing is asked before there are rows to answer."""
    context.reports.append(StageReport("remote"))
    return RemotePredictor(context, http_model(context))


def check(context: Context) -> None:
    """Raises UsageError if there is no server to ask, or nothing that it could answer."""
    cfg, formulation = options(context), context.cfg.method.formulation
    for key in ("url", "model"):
        if not getattr(cfg, key):
            raise UsageError(
                f"method.remote.{key}: is not set. A remote model is off until a command names one: "
                "method.remote.url=http://HOST/v1 method.remote.model=NAME. Prompts with texts of the task go there."
            )
    parts = urlsplit(str(cfg.url))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise UsageError(
            "method.remote.url: has to be http://HOST... or https://HOST..., without user, password and query: it "
            f"stands in the record. The key comes from the environment variable {cfg.key_variable}."
        )
    if not isinstance(formulation, PromptedConfig):
        raise UsageError("method.stages=[remote]: asks written prompts. Use method/formulation=prompted.")
    if not context.data.labels:
        raise UsageError(
            f"method=remote: task {context.data.name} has no labels, and a remote model's answers are labels."
        )
    maker(context)


def options(context: Context) -> RemoteOptions:
    """`method.remote`."""
    found: RemoteOptions = context.cfg.method.options("remote")
    return found


def http_model(context: Context) -> HttpModel:
    """The server that the config names."""
    cfg = options(context)
    body = {"model": cfg.model, "temperature": cfg.temperature, "max_tokens": cfg.max_tokens, "seed": context.cfg.seed}
    return HttpModel(str(cfg.url), body, cfg.key_variable, cfg.timeout, cfg.retries, cfg.wait)


class ByteTokenizer:
    """Stands in for a tokenizer that is not known."""

    is_fast = False

    def __call__(self, text: str, **_: Any) -> dict[str, range]:
        return {"input_ids": range(-(-len(text.encode()) // BYTES))}


def maker(context: Context) -> PromptMaker:
    """Makes the prompts, of the draw's rows."""
    cfg, data = context.cfg.method.formulation, context.data
    assert isinstance(cfg, PromptedConfig)
    writer, tokenizer = Writer(prompt_set(cfg.prompts), cfg.prompt_number, data), ByteTokenizer()
    return PromptMaker(
        writer,
        cfg,
        context.draw.train,
        lambda target: writer.words[str(target)],
        seed=context.cfg.seed,
        room=cfg.max_length or context.cfg.trainer.max_length,
        size_of=lambda text: len(tokenizer(text)["input_ids"]),
        tokenizer=tokenizer,
        similar=_similar(cfg),
    )


def _similar(cfg: PromptedConfig) -> Callable[[Sequence[str]], Any] | None:
    if (encoder := cfg.second_model()) is None:
        return None
    from peftbench.formulations.bi_encoder import sentence_vectors  # torch

    return sentence_vectors(encoder)


class RemotePredictor(Predictor):
    """A remote model with prompts; what it costs is counted."""

    def __init__(self, context: Context, model: RemoteModel) -> None:
        self.context, self.model, self.maker = context, model, maker(context)
        self.read = LabelReader(self.maker.writer.words)
        self.spent: Counter[str] = Counter()
        self.asked: dict[str, str] = {}

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        prompts = [text for text, _ in self.maker(rows)]
        self.asked |= {row.id: text for row, text in zip(rows, prompts, strict=True)}
        with ThreadPoolExecutor(options(self.context).parallel) as pool:
            answers = list(pool.map(self._complete, prompts))
        for answer in answers:
            self._count(answer)
        return [
            Prediction(row.id, self.read(answer.text), answer=answer.text)
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _complete(self, prompt: str) -> Completion:
        self.context.attempt.check()
        return self.model.complete(prompt)

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
            *self.read.remarks(),
        ]

    def save(self, folder: Path) -> None:
        """There is nothing to save."""
