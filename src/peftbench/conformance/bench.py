"""What the checks work on: a tuner, a tiny network of one family, and sixteen texts to learn."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.config.load import compose
from peftbench.config.schema import FormulationConfig, ModelConfig, TrainerConfig
from peftbench.formulations import formulation_class
from peftbench.formulations.base import Encoded, Formulation
from peftbench.formulations.head.formulation import HeadFormulation
from peftbench.formulations.in_words import IGNORE, TextFormulation
from peftbench.learner import HEAD, Learner
from peftbench.measure.clock import PhaseClock
from peftbench.models import load_backbone
from peftbench.models.architecture import Purpose
from peftbench.models.base import Backbone
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.training.distributed import Dist
from peftbench.training.loop import TrainResult, train
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.full import FullOptions
from peftbench.tuners.head_only import HeadOnlyOptions
from peftbench.tuners.plain import FrozenTuner, FullTuner

MAX_LENGTH = 32
SEED = 5
STEPS = 20
BATCH = 8
RATE = 1.0e-2
"""Learning rate of a group that the method's `lr` does not name."""


@dataclass(frozen=True)
class Case:
    """A tiny network and how the task is posed to it. `config`: the network, where `model` is no packaged choice."""

    name: str
    model: str
    family: str
    formulation: str
    config: ModelConfig | None = field(default=None, compare=False)


CASES = (
    Case("bert", "tiny-bert", "encoder", "head"),
    Case("roberta", "tiny-roberta", "encoder", "head"),
    Case("t5", "tiny-t5", "seq2seq", "generate"),
    Case("llama", "tiny-llama", "causal", "generate"),
    Case("llama head", "tiny-llama", "causal", "head"),
    Case("gpt2", "tiny-gpt2", "causal", "generate"),
)

TEXTS = {
    "sport": (
        "goal",
        "The striker scored twice in the final",
        "A late goal won the cup",
        "The coach praised his young team after a long season of hard games",
        "Marathon runners met heavy rain on the last hill",
        "The keeper saved a penalty",
        "Fans sang for ninety minutes while their club held on to the lead",
        "The sprinter broke her own record",
    ),
    "health": (
        "fever",
        "Doctors warn of a new wave of measles",
        "The clinic ran out of vaccine",
        "Nurses asked for more beds after a winter of full wards and long nights",
        "Clean water cut the number of cholera cases by half",
        "A trial of the new malaria drug begins",
        "The hospital opened a second ward for children with asthma this week",
        "Surgeons repaired a heart valve",
    ),
}
"""Sixteen texts of different lengths; what tells the classes apart are their words."""


def task() -> TaskData:
    """The texts as a task."""
    pairs = [(text, label) for i in range(8) for label, texts in TEXTS.items() for text in (texts[i],)]
    rows = [Row(f"train:{i}", text, label) for i, (text, label) in enumerate(pairs)]
    labels = tuple(TEXTS)
    return TaskData(
        name="conformance",
        subset="default",
        train=rows,
        dev=(),
        test=(),
        labels=labels,
        label_words={label: label for label in labels},
        fields=("text", "pair"),
        problem="classification",
        main_metric="accuracy",
        metrics=("accuracy",),
        source=DataSource("packaged", "peftbench.conformance"),
    )


@functools.cache
def pristine(case: Case, purpose: Purpose) -> Backbone:
    """The tiny network; callers work on copies."""
    cfg = case.config or compose([f"model={case.model}"]).model
    return load_backbone(cfg, purpose, dropout=0.0)


def trainer(**changes: Any) -> TrainerConfig:
    """A trainer that does `STEPS` plain steps on a CPU."""
    values: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "max_length": MAX_LENGTH, "warmup": 0.0}
    values |= {"schedule": "constant", "precision": "fp32", "device": "cpu", "progress": False}
    return TrainerConfig(name="conformance", **{**values, **changes})


class Bench:
    """A tuner on one case: fresh learners, training, logits, and one learner trained for `steps` steps."""

    def __init__(self, new_tuner: Callable[[], Tuner], lr: Mapping[str, float], case: Case, steps: int = STEPS) -> None:
        self.new_tuner, self.lr, self.case, self.steps = new_tuner, lr, case, steps
        self.task = task()

    @property
    def context(self) -> TunerContext:
        """What a tuner may know of the sixteen texts."""
        return TunerContext(MAX_LENGTH, self.task.labels, SEED, pool=self.task.train, shots=self.task.train)

    def learner(self, tuner: Tuner | None = None, dtype: torch.dtype = torch.float32) -> Learner:
        """A fresh learner; the same one every time. `dtype` is the backbone's."""
        case = self.case
        # The head starts above zero, so that its gradient reaches the backbone in the first step.
        cfg = FormulationConfig(name=case.formulation, head_init_scale=1.0)
        chosen: Any = formulation_class(cfg, case.family, 8, self.task.problem)
        shared = pristine(case, chosen.purpose)
        backbone = replace(shared, model=copy.deepcopy(shared.model).to(dtype))  # type: ignore[arg-type]
        torch.manual_seed(SEED)
        formulation = chosen(backbone, self.task, MAX_LENGTH, cfg)
        learner = Learner(backbone, tuner or self.new_tuner(), formulation, self.context)
        for module in learner.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # chance would hide what the checks look for
        return learner

    @cached_property
    def bare(self) -> Learner:
        """The frozen backbone under the same head, in eval mode. Checks leave it as it is."""
        return self.learner(FrozenTuner(HeadOnlyOptions(name="head_only"))).eval()

    def full(self) -> Learner:
        """Full fine-tuning of the same backbone."""
        return self.learner(FullTuner(FullOptions(name="full")))

    def under_fixed_head(self, dtype: torch.dtype = torch.float32) -> Learner:
        """A fresh learner in which nothing but the tuner is trained."""
        learner = self.learner(dtype=dtype)
        learner.formulation.requires_grad_(False)
        return learner

    def train(self, learner: Learner, factor: float = 1.0, dist: Dist | None = None, **changes: Any) -> TrainResult:
        """Train on the sixteen texts, at `factor` times the method's learning rates."""
        rates = {name: factor * self.lr.get(name, RATE) for name in learner.param_groups()}
        return train(
            learner,
            learner.encode(self.task.train),
            cfg=trainer(**{"steps": self.steps, **changes}),
            lr=rates,
            weight_decay=0.0,
            seed=SEED,
            select="last",
            evaluate=None,
            clock=PhaseClock(),
            dist=dist or Dist(torch.device("cpu")),
        )

    @cached_property
    def start(self) -> tuple[Learner, dict[str, Tensor]]:
        """A learner, and copies of all its tensors before the training that `trained` gives it."""
        learner = self.learner()
        return learner, {name: tensor.detach().clone() for name, tensor in named_tensors(learner)}

    @cached_property
    def trained(self) -> Learner:
        """The learner of `start` after `steps` steps, in eval mode. Checks leave it as they found it."""
        learner, _ = self.start
        self.train(learner)
        return learner.eval()

    @cached_property
    def has_tuner_parameters(self) -> bool:
        """Whether the tuner trains anything itself; `head_only` does not."""
        return bool(tuner_groups(self.start[0]))


def named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """All parameters and buffers by name, those that are shared once."""
    return [*module.named_parameters(), *module.named_buffers()]


def tuner_groups(learner: Learner) -> ParamGroups:
    """What the tuner declares, without the head."""
    return {name: params for name, params in learner.param_groups().items() if name != HEAD}


@torch.no_grad()
def logits(
    learner: Learner, items: Sequence[Encoded], model: nn.Module | None = None, virtual_tokens: int | None = None
) -> list[Tensor]:
    """For each item, computed in one padded batch: class logits (classes), or those of its answer (tokens, vocabulary).

    `model` and `virtual_tokens` stand in for the learner's own.
    """
    formulation: Formulation = learner.formulation
    model = learner.model if model is None else model
    before = formulation.virtual_tokens
    if virtual_tokens is not None:
        formulation.virtual_tokens = virtual_tokens
    try:
        batch = formulation.collate(items)
        if isinstance(formulation, HeadFormulation):
            return list(formulation.logits(model, batch))
        assert isinstance(formulation, TextFormulation)
        found, labels = formulation.answer_logits(model, batch)
        return [row[wanted] for row, wanted in zip(found.float(), labels != IGNORE, strict=True)]
    finally:
        formulation.virtual_tokens = before


def one_by_one(learner: Learner, items: Sequence[Encoded], **stand_ins: Any) -> list[Tensor]:
    """`logits` of items that each are alone in their batch, so without padding."""
    return [logits(learner, [item], **stand_ins)[0] for item in items]


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, int]:
    """Largest difference, relative to the largest number wanted (or 1), and the item where it is."""
    scale = max(1.0, *(float(w.abs().max()) for w in wanted))
    gaps = [gap_of(a, b) / scale for a, b in zip(found, wanted, strict=True)]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    return gaps[worst], worst


def gap_of(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors; infinite if they cannot be compared."""
    gap = float((a.detach().double() - b.detach().double()).abs().max()) if a.shape == b.shape else math.inf
    return math.inf if math.isnan(gap) else gap
