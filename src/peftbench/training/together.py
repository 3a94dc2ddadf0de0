"""Several runs trained together: each is told as ever, in a thread of its own, and they share the forward and backward
passes of their equal frozen networks. Data order, optimiser, schedule, clipping, dev choice, checkpoints and record are
each run's own, by the code of a run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from peftbench.passes.shared_pass import Together, serve
from peftbench.passes.turns import Company, here

if TYPE_CHECKING:
    from peftbench.learner import Learner

T = TypeVar("T")


def train_together(learners: Sequence[Learner], trainings: Sequence[Callable[[], T]]) -> list[T]:
    """Have the training of each learner done as a member of one company; what they returned, in order. Raises what the
    first one that failed did."""

    def work(learner: Learner, training: Callable[[], T]) -> T:
        member = here()
        assert member is not None
        learner.together = Together(member, learner.backbone.model)
        with learner.in_training():
            return training()

    members = Company([partial(work, *each) for each in zip(learners, trainings, strict=True)], serve).run()
    for member in members:
        if member.error is not None:
            raise member.error
    return [member.result for member in members]
