"""Learners whose answers an inference draws, without a run around them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from made_up_configs import compose
from tiny_answers import disturbed, learner, task

from peftbench.config import registry
from peftbench.formulations.base import Prediction
from peftbench.inference.base import Inference
from peftbench.learner import Learner
from peftbench.tasks.base import Row
from peftbench.training.distributed import Dist
from peftbench.training.predict import predict_all


def shots() -> list[Row]:
    """Two training rows of each of three classes."""
    texts = {"sports": ("They lost the final", "The striker scored twice"),
             "politics": ("The minister resigned", "Parliament votes on the law"),
             "health": ("A nurse on the ward", "The new vaccine works")}  # fmt: skip
    return [Row(f"train:{label}{n}", text, label) for label, own in texts.items() for n, text in enumerate(own)]


@dataclass
class Drawn:
    """An inference over a tiny learner of random weights."""

    net: Learner
    inference: Inference

    def ask(self, rows: Sequence[Row], predict: Any = None, learner: Learner | None = None) -> list[Prediction]:
        net, trainer = learner or self.net, compose([]).trainer
        trainer.progress = False
        found = predict_all(
            net, net.encode(rows), cfg=trainer, dist=Dist(torch.device("cpu")), precision="fp32", predict=predict
        )
        return net.formulation.answers(rows, found)

    def answer(self, rows: Sequence[Row]) -> list[Prediction]:
        return self.inference.answer(rows, self.ask)

    def fingerprint(self) -> str:
        """Of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode() + tensor.detach().numpy().tobytes())
        return digest.hexdigest()


def drawn(name: str, options: dict[str, Any], *overrides: str, data: Any = None) -> Drawn:
    """The inference of that name with the packaged options but for `options`, over what `overrides` compose.

    Options that change nothing are no reason to leave the inference out, as a run does.
    """
    net = disturbed(learner(*overrides, data=data or task(), shots=shots()))
    declared = registry.get("inference", name)
    return Drawn(net, declared(declared.options(name=name, **options), net))
