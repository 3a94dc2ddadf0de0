"""R-Drop (Liang et al., NeurIPS 2021, arXiv 2106.14448): two passes under different dropout must agree."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.learner import Learner
from peftbench.stages.soft_losses import divergences
from peftbench.stages.tricks.passes import Passes
from peftbench.stages.tricks.r_drop import NO_DROPOUT, RDropOptions
from peftbench.stages.tricks.training import Hook


def r_drop(passes: Passes, options: RDropOptions, loss: Callable[[], Tensor]) -> Tensor:
    """-log p1(y) - log p2(y) + alpha/2 [KL(p1 || p2) + KL(p2 || p1)], summed over the batch (equations 1 to 4).

    In a regression each KL is a squared difference, which is ours.
    """
    first, second = passes.logits(), passes.another_logits()
    apart = divergences(first, second) + divergences(second, first)
    return loss() + passes.loss_of(second) + options.alpha / 2 * (passes.weights * apart).sum()


class NeedsDropout(Hook):
    """Refuses a network in which nothing is dropped out: both passes would be the same."""

    def __init__(self, learner: Learner, options: RDropOptions, seed: int) -> None:
        super().__init__()
        if not any(map(drops_out, learner.modules())):
            raise UsageError(NO_DROPOUT.format(why=" in this network"))


def drops_out(module: nn.Module) -> bool:
    """Whether a module is a dropout, or an attention that drops out its weights itself."""
    shares = (getattr(module, "attention_dropout", 0.0), module.p if isinstance(module, nn.Dropout) else 0.0)
    return any(isinstance(share, float) and share > 0 for share in shares)
