"""Adversarial fine-tuning in two forms, on perturbations delta of the word embeddings e.

`sift` (scale-invariant fine-tuning: He et al., ICLR 2021, arXiv 2006.03654, section 4; released in
microsoft/DeBERTa, sift.py): the loss plus alpha [KL(p || p_adv) + KL(p_adv || p)], the first distribution of each
without gradient. delta is in units of the standard deviation of each token's embedding: the network reads
e + std(e) delta, which is what it is when a layer norm without gain stands in front of delta. Where the released code
has that norm before the embeddings' own (words, positions and types together), we have the words alone, so that it is
the same in every network, and the pass without delta is the network as it is.

`freelb` (Zhu et al., ICLR 2020, arXiv 1909.11764, algorithm 1): the mean of the loss over the perturbations on the way
of the ascent, each of which gives gradients for delta and for the parameters in one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from peftbench.stages.soft_losses import divergences
from peftbench.stages.tricks.adversarial import AdversarialOptions
from peftbench.stages.tricks.passes import Change, Passes

TINY = 1e-8
Loss = Callable[[], Tensor]


def adversarial(passes: Passes, options: AdversarialOptions, loss: Loss) -> Tensor:
    """The loss of a batch by the form that the options name."""
    return sift(passes, options, loss) if options.form == "sift" else freelb(passes, options)


def sift(passes: Passes, options: AdversarialOptions, loss: Loss) -> Tensor:
    """`loss` plus what the answers differ by, at the end of the ascent, from those without perturbation."""
    clean = passes.logits()
    delta = passes.mask * normal_start(passes, options.noise)
    for _ in range(options.steps):
        delta.requires_grad_()
        apart = divergences(clean.detach(), passes.logits(scaled(delta))).sum()
        (slope,) = torch.autograd.grad(apart, delta)
        delta = in_box(delta.detach() + options.step * by_largest(slope), options.epsilon)
    moved = passes.logits(scaled(delta))
    both = divergences(clean.detach(), moved) + divergences(moved.detach(), clean)
    return loss() + options.alpha * (passes.weights * both).sum()


def freelb(passes: Passes, options: AdversarialOptions) -> Tensor:
    """The mean loss over the perturbations of the ascent. There is no pass without one."""
    delta, earlier = uniform_start(passes, options.noise), torch.zeros((), device=passes.mask.device)
    gradients: list[Tensor | None] = [None] * len(passes.parameters)
    for to_come in reversed(range(options.steps)):
        delta.requires_grad_()
        present = passes.loss(added(delta)) / options.steps
        if to_come:
            slope, *found = torch.autograd.grad(present, [delta, *passes.parameters], allow_unused=True)
            gradients = [b if a is None else a if b is None else a + b for a, b in zip(gradients, found, strict=True)]
            earlier = earlier + present.detach()
            delta = in_ball(delta.detach() + options.step * by_norm(slope), options.epsilon)
    return present + with_gradients(earlier, passes.parameters, gradients)


def scaled(delta: Tensor) -> Change:
    """Adds delta in units of each embedding's standard deviation over its d numbers."""
    return lambda words: words + delta * words.detach().std(-1, unbiased=False, keepdim=True)


def added(delta: Tensor) -> Change:
    """Adds delta."""
    return lambda words: words + delta


def normal_start(passes: Passes, width: float) -> Tensor:
    """(batch, n, d) from N(0, width^2), nothing beyond two standard deviations."""
    shape = (*passes.mask.shape[:2], passes.width)
    return (width * torch.randn(shape, device=passes.mask.device)).clamp(-2 * width, 2 * width)


def uniform_start(passes: Passes, length: float) -> Tensor:
    """(batch, n, d), of each text uniform in the cube with sides 2 length / sqrt(its tokens x d); 0 at padding."""
    shape = (*passes.mask.shape[:2], passes.width)
    numbers = passes.mask.sum((1, 2), keepdim=True) * passes.width
    return passes.mask * torch.empty(shape, device=passes.mask.device).uniform_(-1, 1) * length / numbers.sqrt()


def by_largest(slope: Tensor) -> Tensor:
    """Each token's gradient over the greatest size of its numbers."""
    return slope / (slope.abs().amax(-1, keepdim=True) + 1e-6)


def by_norm(slope: Tensor) -> Tensor:
    """Each text's gradient over its Euclidean norm."""
    return slope / slope.flatten(1).norm(dim=1).clamp(min=TINY)[:, None, None]


def in_box(delta: Tensor, epsilon: float | None) -> Tensor:
    """No number beyond epsilon."""
    return delta if epsilon is None else delta.clamp(-epsilon, epsilon)


def in_ball(delta: Tensor, epsilon: float | None) -> Tensor:
    """No text's delta longer than epsilon."""
    if epsilon is None:
        return delta
    length = delta.flatten(1).norm(dim=1).clamp(min=TINY)
    return delta * (epsilon / length).clamp(max=1)[:, None, None]


def with_gradients(value: Tensor, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> Tensor:
    """A scalar with this value and these gradients, which have been worked out already."""
    terms = [(p * g).sum() for p, g in zip(parameters, gradients, strict=True) if g is not None]
    line = torch.stack(terms).sum() if terms else torch.zeros_like(value)
    return value + (line - line.detach())
