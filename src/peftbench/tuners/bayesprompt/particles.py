"""BayesPrompt's start of a soft prompt (Li et al., ICLR 2024, arXiv 2401.14166): vectors typical of the task's domain.

A Gaussian mixture is fitted to one vector a text; Stein variational gradient descent (SVGD) moves the vectors of the
few labelled texts towards it; each prompt row is the mean of a few of the resulting particles.

Our reading for text classification with a frozen backbone: a text's vector is the mean of its word embeddings without
padding (the original averages padding too), the mixture has one component a class, both are computed in at most 64
principal components scaled to unit mean variance (full covariances of the whole width are the cost driver, and the
original's regulariser 0.1 is then relative to the data). What becomes of the prompt in training is the tuner's
business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftbench.errors import UsageError
from peftbench.models.base import Backbone
from peftbench.tasks.base import Row
from peftbench.tuners.base import TunerContext

Array = NDArray[np.float64]

COMPONENTS = 64
"""Most principal components."""
REGULARISER = 0.1
"""Added to the diagonal of each covariance."""
STEPS, STEP_SIZE, MEMORY = 1000, 0.01, 0.9
"""SVGD: iterations, size of a step, share of the old in the running mean of squared directions."""


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture with K components in d dimensions: weights (K,), means (K, d), precisions (K, d, d)."""

    weights: Array
    means: Array
    precisions: Array

    def log_density(self, x: Array) -> Array:
        """(n,) log p of (n, d) points."""
        return np.logaddexp.reduce(self._joint_and_pulls(x)[0], axis=1)

    def score(self, x: Array) -> Array:
        """(n, d) gradient of log p. Responsibilities come from log-sum-exp: densities underflow in many dimensions."""
        joint, pulls = self._joint_and_pulls(x)
        responsibilities = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
        return np.einsum("nk,knd->nd", responsibilities, pulls)

    def _joint_and_pulls(self, x: Array) -> tuple[Array, Array]:
        """(n, K) log of weight times density, and (K, n, d) its gradient."""
        away = self.means[:, None] - x[None]
        pulls = away @ self.precisions
        squares = (away * pulls).sum(2).T
        constant = self._log_determinants - self.means.shape[1] * np.log(2 * np.pi)
        return np.log(self.weights) + 0.5 * (constant - squares), pulls

    @cached_property
    def _log_determinants(self) -> Array:
        return np.linalg.slogdet(self.precisions)[1]


def fit_mixture(x: Array, components: int, seed: int) -> Mixture:
    """A mixture of at most `components` full-covariance Gaussians fitted to (n, d) points."""
    from sklearn.mixture import GaussianMixture

    count = min(components, len(x))
    model = GaussianMixture(count, covariance_type="full", reg_covar=REGULARISER, random_state=seed).fit(x)
    return Mixture(model.weights_, model.means_, model.precisions_)


def svgd(start: Array, score: Callable[[Array], Array], steps: int = STEPS, step_size: float = STEP_SIZE) -> Array:
    """(n, d) particles moved from `start` towards the density whose gradient of the log is `score`.

    Each step follows the mean over j of k(x_j, x_i) score(x_j) + grad_j k(x_j, x_i), scaled unit by unit as in
    AdaGrad with a running mean. The RBF kernel's width follows the median distance. One particle climbs the density.
    """
    x, squares = start.copy(), None
    for _ in range(steps):
        kernel, repulsion = rbf(x)
        direction = (kernel @ score(x) + repulsion) / len(x)
        squares = direction**2 if squares is None else MEMORY * squares + (1 - MEMORY) * direction**2
        x = x + step_size * direction / (1e-6 + np.sqrt(squares))
    return x


def rbf(x: Array) -> tuple[Array, Array]:
    """Kernel (n, n) of (n, d) points, and (n, d) the sum over j of the gradient of k(x_j, x_i) with respect to x_j."""
    squares = (x**2).sum(1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0)
    np.fill_diagonal(distances, 0)
    width = 0.5 * np.median(distances) / np.log(len(x) + 1)
    if width <= 0:  # one particle, or most of them in one place
        width = distances.mean() or 1.0
    kernel = np.exp(-distances / (2 * width))
    return kernel, (x * kernel.sum(1, keepdims=True) - kernel @ x) / width


@torch.no_grad()
def features(backbone: Backbone, rows: Sequence[Row], max_length: int) -> Array:
    """(n, d): the mean word embedding of each text, special tokens included, padding not."""
    if not rows:
        return np.zeros((0, backbone.embedding_size))
    embedding = backbone.model.get_input_embeddings()
    texts = [row.whole for row in rows]
    ids = backbone.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    means = [embedding(torch.tensor(i)).float().mean(0) for i in ids if i]
    return torch.stack(means).double().numpy()


@dataclass(frozen=True)
class Particles:
    """(n, d) vectors typical of the domain, and how many of them are averaged into one row of a prompt."""

    points: Array
    averaged: int

    def rows(self, count: int, generator: np.random.Generator) -> Tensor:
        """(count, d) in fp32: each the mean of `averaged` particles drawn without replacement."""
        draws = [generator.choice(len(self.points), self.averaged, replace=False) for _ in range(count)]
        return torch.tensor(np.stack([self.points[d].mean(0) for d in draws]), dtype=torch.float32)


def domain_prompt(backbone: Backbone, context: TunerContext, rows: int, whole_pool: bool) -> Tensor:
    """(rows, d) prompt rows, made of `domain_particles` with the run's seed."""
    return domain_particles(backbone, context, whole_pool).rows(rows, np.random.default_rng(context.seed))


def domain_particles(backbone: Backbone, context: TunerContext, whole_pool: bool) -> Particles:
    """The vectors of the labelled texts, moved to where the domain's are; as many are averaged as there are classes.

    Args:
        whole_pool: fit the mixture to the unlabelled texts of the whole training split; else to the shots alone.

    Raises:
        UsageError: there are no shots to start the particles from.
    """
    start = features(backbone, context.shots, context.max_length)
    if not len(start):
        raise UsageError("method.tuner.init=bayesprompt starts from labelled texts, and there are none (shots=0).")
    pool = features(backbone, context.pool, context.max_length) if whole_pool else start
    if len(pool) < 2:
        raise UsageError("method.tuner.init=bayesprompt fits a mixture to texts; there is only one.")
    classes = max(1, len({row.target for row in context.shots}))
    down, up = principal_components(pool)
    mixture = fit_mixture(down(pool), classes, context.seed)
    particles = up(svgd(down(start), mixture.score))
    return Particles(particles, min(classes, len(particles)))


def principal_components(x: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """The way from (n, d) points to their principal components, scaled to unit mean variance, and the way back.

    What lies outside the components, which no particle can move along, is the mean of `x` on the way back.
    """
    mean = x.mean(0)
    _, values, axes = np.linalg.svd(x - mean, full_matrices=False)
    kept = max(1, min(COMPONENTS, int((values > 1e-9 * max(values[0], 1e-30)).sum())))
    axes = axes[:kept]
    scale = float(np.sqrt((values[:kept] ** 2).mean() / len(x))) or 1.0
    return lambda points: (points - mean) @ axes.T / scale, lambda points: points @ axes * scale + mean
