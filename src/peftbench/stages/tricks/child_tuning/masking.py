"""Child-Tuning as a trick: the masks of `peftbench.tuners.child_tuning`, over the parameters of any tuner. The paper
trains all weights; over the parameters of adapters it is ours."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.errors import UsageError
from peftbench.learner import Learner
from peftbench.models.anatomy import anatomy_of
from peftbench.stages.tricks.child_tuning import ChildOptions
from peftbench.stages.tricks.training import Hook
from peftbench.tuners.child_tuning.network import ChildNetwork


class Masking(Hook):
    """Masks what the tuner trains; the head is not masked."""

    def __init__(self, learner: Learner, options: ChildOptions, seed: int) -> None:
        super().__init__()
        head = {id(p) for p in learner.formulation.own_parameters(learner.model).values()}
        own = {n: p for n, p in learner.model.named_parameters() if p.requires_grad and id(p) not in head}
        network = learner.backbone.model
        blocks = [network.get_submodule(block.name) for block in anatomy_of(network).blocks()]
        inside = {id(p) for block in blocks for p in block.parameters()}
        in_blocks = {name: p for name, p in own.items() if id(p) in inside}
        if options.variant == "D" and not in_blocks:
            raise UsageError(
                "method.trick.child_tuning.variant=D: chooses among what is trained in the network's blocks, and this "
                "method trains nothing there. Use variant=F, or method=full or lora."
            )
        self.child = ChildNetwork(options.variant, options.reserve, seed, own, in_blocks, "method.trick.child_tuning")

    def before_training(self, gradients: Iterable[int]) -> None:
        self.notes = self.child.choose(gradients)

    def before_step(self, step: int, steps: int) -> None:
        self.child.mask(step)
