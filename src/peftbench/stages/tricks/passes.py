"""The forward passes of one batch, from which tricks make its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.formulations.base import Batch
from peftbench.formulations.soft_pattern import embedding_layer
from peftbench.formulations.soft_targets import SOFT_TARGETS
from peftbench.stages.tricks.adversarial import NO_WORDS

if TYPE_CHECKING:
    from peftbench.learner import Learner

WEIGHTS = "weights"
"""In a batch: (batch,) weights of its items."""
Change = Callable[[Tensor], Tensor]
"""From the word embeddings (batch, n, d) of a batch to those that are put in their place."""


class Passes:
    """Passes of one batch through a learner in train mode.

    All but those of `another_logits` drop out the same, so that what differs between them is the change alone.

    Attributes:
        ids, mask: (batch, n) ids that the network looks up, and (batch, n, 1) of those that are words of the text;
            `width` is d of their embeddings.
        weights: (batch,).
        parameters: what is trained.
    """

    def __init__(self, learner: Learner, batch: Batch) -> None:
        self.batch, self.model = batch, learner.model
        self.formulation: Any = learner.formulation
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        self.ids, words = self.formulation.words_of(batch)
        self.mask, self.weights = words.unsqueeze(-1).float(), batch[WEIGHTS]
        self._clean: Tensor | None = None
        self._cuda = self.mask.device if self.mask.is_cuda else None
        self._before = torch.get_rng_state(), torch.cuda.get_rng_state(self._cuda) if self._cuda else None
        # What is drawn besides the first pass's dropout, noise above all, must not be made of the same random numbers.
        other = int(torch.randint(2**62, ()))
        torch.default_generator.manual_seed(other)
        if self._cuda:
            torch.cuda.manual_seed(other)

    @property
    def width(self) -> int:
        """Numbers in the embedding of a word."""
        return embedding_layer(self.model).weight.shape[1]

    def logits(self, change: Change | None = None) -> Tensor:
        """(batch, classes), or (batch, 1) in a regression; those without a change are computed once."""
        if change is None and self._clean is not None:
            return self._clean
        with self._same_dropout(), self._changed(change):
            logits: Tensor = self.formulation.logits(self.model, self.batch)
        if change is None:
            self._clean = logits
        return logits

    def another_logits(self) -> Tensor:
        """`logits` under a dropout of its own."""
        logits: Tensor = self.formulation.logits(self.model, self.batch)
        return logits

    def loss_of(self, logits: Tensor) -> Tensor:
        """Scalar: the sum over the batch of weight x loss, by the items' soft targets where they have any."""
        if SOFT_TARGETS not in self.batch:
            own: Tensor = self.formulation.loss_of(logits, self.batch)
            return own
        losses = F.cross_entropy(logits.float(), self.batch[SOFT_TARGETS], reduction="none")
        return (losses * self.weights).sum()

    def loss(self, change: Change | None = None) -> Tensor:
        """`loss_of` these logits; of a formulation without class scores its own loss."""
        if hasattr(self.formulation, "loss_of"):
            return self.loss_of(self.logits(change))
        with self._same_dropout(), self._changed(change):
            own: Tensor = self.formulation.loss(self.model, self.batch)
        return own

    @contextmanager
    def _same_dropout(self) -> Iterator[None]:
        cpu, cuda = self._before
        with torch.random.fork_rng(devices=[self._cuda] if self._cuda else []):
            torch.set_rng_state(cpu)
            if cuda is not None and self._cuda is not None:
                torch.cuda.set_rng_state(cuda, self._cuda)
            yield

    def _changed(self, change: Change | None) -> Any:
        return nullcontext() if change is None else changed_words(self.model, self.ids, change)


@contextmanager
def changed_words(model: nn.Module, ids: Tensor, change: Change) -> Iterator[None]:
    """Within the block the word embeddings of `ids`, (batch, n), are what `change` makes of them; those of other ids (a
    decoder's, a tuner's own) stay.

    Raises:
        UsageError: no word embeddings were asked for, so there is nothing that could be differentiated.
    """
    matrix, asked = embedding_layer(model).weight, False

    def put(_module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        nonlocal asked
        if embedded.shape[:-1] != ids.shape or inputs[0].data_ptr() != ids.data_ptr():
            return embedded
        asked = True
        return change(embedded).to(embedded.dtype)

    layers = [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is matrix]
    handles = [layer.register_forward_hook(put) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not asked:
        raise UsageError(NO_WORDS.format(method="this method"))
