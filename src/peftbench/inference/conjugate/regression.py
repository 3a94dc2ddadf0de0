"""The paper's synthetic task with exact Bayes predictors: why another form of a problem brings the older ability back.

    peftbench demo conjugate

y_i = w.x_i + noise, x ~ N(0, I_d). A model knows two kinds of tasks: w one of n fixed vectors (what it was tuned on,
with prior probability alpha), or w ~ N(0, I_d). The best predictor mixes both answers by the posterior of the first
kind. Where w is of the second kind, a prior near 1 pulls the answer to the fixed vectors; with all y multiplied by a
factor the exemplars fit no fixed vector any more, and the answer, divided by it, is nearly that of ridge regression.
The setting is the paper's as our notes have it. Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


class OfFactor(NamedTuple):
    """Means over prompts: the squared error of the answer, and the posterior of the fixed vectors."""

    factor: float
    error: float
    posterior: float


class Errors(NamedTuple):
    """`rows`, one a factor, and the squared error of ridge regression."""

    rows: list[OfFactor]
    ridge: float


def errors(
    factors: Sequence[float], alpha: float = 0.999999, draws: int = 2000, dimensions: int = 20, vectors: int = 64,
    exemplars: int = 6, noise: float = 1.0, seed: int = 0,
) -> Errors:  # fmt: skip
    """Squared error of the predicted next y, for w ~ N(0, I_d): its mean over the next x is |w' - w|^2, w' being the
    predictor's weights.

    Args:
        factors: by which y is multiplied before, and the answer divided after.
        alpha: prior probability of the fixed vectors.
        draws: prompts; each has a w, exemplars and fixed vectors of its own.
        noise: standard deviation of what is added to the exemplars' y; the one that is asked for has none.
    """
    random = np.random.RandomState(seed)
    found: list[list[tuple[float, float]]] = [[] for _ in factors]
    ridge = []
    for _ in range(draws):
        fixed = random.standard_normal((vectors, dimensions))
        w = random.standard_normal(dimensions)
        x = random.standard_normal((exemplars, dimensions))
        y = x @ w + noise * random.standard_normal(exemplars)
        ridge.append(np.sum((ridge_weights(x, y, noise) - w) ** 2))
        for kept, factor in zip(found, factors, strict=True):
            weights, posterior = mixed_weights(x, factor * y, fixed, alpha, noise)
            kept.append((float(np.sum((weights / factor - w) ** 2)), posterior))
    rows = [OfFactor(f, *map(float, np.mean(kept, axis=0))) for f, kept in zip(factors, found, strict=True)]
    return Errors(rows, float(np.mean(ridge)))


def ridge_weights(x: Array, y: Array, noise: float) -> Array:
    """(d,): the posterior mean of w ~ N(0, I_d)."""
    return np.linalg.solve(x.T @ x + noise**2 * np.eye(x.shape[1]), x.T @ y)


def mixed_weights(x: Array, y: Array, fixed: Array, alpha: float, noise: float) -> tuple[Array, float]:
    """(d,): the posterior mean of w under the mixture, and the posterior probability of the fixed vectors.

    Args:
        x: (exemplars, d); y: (exemplars,).
        fixed: (n, d), alike likely.
    """
    squares = -((y - fixed @ x.T) ** 2).sum(1) / (2 * noise**2)
    shares = np.exp(squares - squares.max())
    discrete = float(squares.max() + np.log(shares.mean()) - len(y) / 2 * np.log(2 * np.pi * noise**2))
    covariance = x @ x.T + noise**2 * np.eye(len(y))
    logarithm = np.linalg.slogdet(2 * np.pi * covariance)[1]
    continuous = float(-(y @ np.linalg.solve(covariance, y) + logarithm) / 2)
    odds = np.log(1 - alpha) + continuous - np.log(alpha) - discrete
    posterior = float(1 / (1 + np.exp(np.clip(odds, -700, 700))))
    nearest = shares @ fixed / shares.sum()
    return posterior * nearest + (1 - posterior) * ridge_weights(x, y, noise), posterior


def report() -> str:
    """The table of the packaged demonstration."""
    found = errors(factors=(1.0, 1.5, 2.0, 3.0))
    lines = ["squared error by the factor of the conjugate prompt (exact predictors, w ~ N(0, I), 6 exemplars)"]
    for row in found.rows:
        lines.append(f"  factor {row.factor:<4g}{row.error:6.1f}   posterior of the tuned-in task {row.posterior:.2f}")
    return "\n".join([*lines, f"  ridge      {found.ridge:6.1f}   what the model could do before it was tuned"])
