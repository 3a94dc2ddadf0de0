"""A learner with something about it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from peftbench.learner import Learner


class AroundLearner(nn.Module):
    """A learner as the training loop sees it; what a subclass does not say is the learner's own."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__["_modules"]
        return modules[name] if name in modules else getattr(modules["learner"], name)
