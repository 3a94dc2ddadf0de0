"""The answers that look at no text, with the face of a scikit-learn estimator: the most frequent class, the mean score.

They give what its `DummyClassifier(strategy="most_frequent")` and `DummyRegressor` do (the tests compare them) without
its import, which is all that such a run would take time for.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class MostFrequent:
    """Answers with the class of most targets, of several the first in their order, and is sure of it."""

    def fit(self, matrix: Any, targets: np.ndarray) -> None:
        """Count `targets` (n,); `matrix` (n, features) is not looked at."""
        self.classes_, counts = np.unique(targets, return_counts=True)
        self._answer = int(counts.argmax())

    def predict(self, matrix: Any) -> np.ndarray:
        """(n,) the answer, for each row of the matrix."""
        return np.repeat(self.classes_[self._answer], matrix.shape[0])

    def predict_proba(self, matrix: Any) -> np.ndarray:
        """(n, classes): 1 for the answer."""
        shares = np.zeros((matrix.shape[0], len(self.classes_)))
        shares[:, self._answer] = 1.0
        return shares


class Mean:
    """Answers with the mean of the targets."""

    def fit(self, matrix: Any, targets: np.ndarray) -> None:
        """Average `targets` (n,); `matrix` (n, features) is not looked at."""
        self._mean = np.average(targets)

    def predict(self, matrix: Any) -> np.ndarray:
        """(n,) the mean, for each row of the matrix."""
        return np.full(matrix.shape[0], self._mean)
