"""Class-conditional texts by Possibility Exploration Fine-Tuning (Mai and Carson-Berndsen, arXiv 2412.03343).

The paper is about dialogues; that the texts of a class are the answers to one prompt is our reading.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from peftbench.config import compose
from peftbench.formulations.possibilities.formulation import PossibilitiesFormulation
from peftbench.learner import Learner
from peftbench.models import load_backbone
from peftbench.stages.base import StageReport
from peftbench.stages.learning import LearnerPredictor, train_on
from peftbench.stages.recipe.base import Made
from peftbench.tasks.base import Row, TaskData
from peftbench.tuners import TunerContext, build_tuner

if TYPE_CHECKING:
    from peftbench.stages.base import Context
    from peftbench.stages.recipe.possibility_exploration import PossibilityOptions

ANSWERS = 4
"""Texts of a class that a step takes together, the paper's number of answers."""
PROMPT = 128
"""Room for a prompt: the label and the question."""
ASK = "Write a text with this label."
ASK_NUMBERED = (
    "Think about all the texts that could have this label and then write the one that corresponds to possibility "
    "number #{number}."
)


def made(context: Context, options: PossibilityOptions) -> Made:
    """`per_class` rows of each label that has drawn rows, in the numbers' order."""
    task = task_of(context)
    learner = author(context, options, task)
    report = StageReport("author")
    cfg = replace(
        context.cfg,
        method=replace(context.cfg.method, lr={"default": options.lr}, constant_lr=[]),
        trainer=replace(
            context.cfg.trainer, steps=options.steps, epochs=None, batch_size=1, micro_batch=None, probe=False
        ),
    )
    items = learner.encode(task.train)
    own = LearnerPredictor(learner, replace(context, cfg=cfg))
    train_on(own.context, learner, items, context.stage_folder("author"), report)
    found: list[Row] = []
    per_prompt = responses(options)
    for label in context.data.labels:
        asked = [Row(f"{label}/{n}", _word(context, label), None) for n in range(-(-options.per_class // per_prompt))]
        if any(row.domain == label for row in task.train):
            said = [text for prediction in own.predict(asked) for text in json.loads(prediction.answer or "[]")]
            lines = [" ".join(text.split()) for text in said[: options.per_class]]
            found += [Row(f"made:{label}/{n}", text, label) for n, text in enumerate(lines)]
    facts = {"author_tokens": float(report.tokens), "author_steps": float(report.steps)}
    return Made(found, {row.id: {"number": 1 + int(row.id.rpartition("/")[2]) % per_prompt} for row in found}, facts)


def task_of(context: Context) -> TaskData:
    """A task whose answers are the drawn texts of a class, `ANSWERS` of them in a row."""
    rows = []
    for label in context.data.labels:
        texts = [" ".join(row.whole.split()) for row in context.draw.train if row.target == label]
        for start in range(0, len(texts), ANSWERS):
            answers = tuple((1, (text,)) for text in texts[start : start + ANSWERS])
            rows.append(Row(f"train:{label}/{start}", _word(context, label), answers, domain=label))
    facts: dict[str, Any] = {
        "labels": (),
        "label_words": {},
        "terms": {},
        "cloze": {},
        "instruction": "",
        "domains": (),
    }
    return replace(
        context.data,
        train=rows,
        dev=(),
        test=(),
        unlabeled=(),
        extra_tests={},
        fields=("label",),
        problem="answers",
        **facts,
    )


def _word(context: Context, label: str) -> str:
    return context.data.label_words.get(label, label)


def author(context: Context, options: PossibilityOptions, task: TaskData) -> Learner:
    """The model that writes, with LoRA on it."""
    cfg = compose(
        [
            f"model={options.model}", "method=possibility_exploration", f"method.tuner.rank={options.rank}",
            f"method.tuner.alpha={2 * options.rank}", f"method.formulation.numbers={options.numbers}",
            f"method.formulation.unlikelihood={options.unlikelihood}",
            f"method.formulation.responses={responses(options)}",
            f"method.formulation.answers_a_row={min(ANSWERS, options.numbers or ANSWERS)}",
            f"method.formulation.answer_tokens={options.written_tokens}",
            f"method.formulation.temperature={options.temperature}", f"method.formulation.top_p={options.top_p}",
            f"method.formulation.sample_seed={context.cfg.seed}",
        ]
    )  # fmt: skip
    formulation = replace(cfg.method.formulation, ask=ASK, ask_numbered=ASK_NUMBERED)  # type: ignore[call-arg]
    length = PROMPT + options.written_tokens
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.cfg.seed)
        backbone = load_backbone(cfg.model, "lm", dropout=0.0)
        posed = PossibilitiesFormulation(backbone, task, length, formulation)
        learner = Learner(backbone, build_tuner(cfg.method.tuner), posed, TunerContext(length, (), context.cfg.seed))
    return learner.to(context.processes().device)


def responses(options: PossibilityOptions) -> int:
    """Texts to one prompt of a class."""
    return min(options.per_class, options.numbers or options.per_class)
