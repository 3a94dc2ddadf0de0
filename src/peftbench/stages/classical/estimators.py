"""The models that `method.classical.estimator` chooses among, scikit-learn's but the constant ones: one line each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.config.registry import imported
from peftbench.stages.classical.constant import Mean, MostFrequent

if TYPE_CHECKING:
    from peftbench.stages.classical import ClassicalOptions

Maker = Callable[["ClassicalOptions", int], Any]
BINS = 32
"""Of a feature's values in boosted trees: counts of n-grams have few. Memory and time grow with it."""


@dataclass(frozen=True)
class Estimator:
    """One model.

    Attributes:
        classifier: (options, the run's seed) -> one that is not fitted.
        regressor: the same for scores; None where the model knows classes alone.
        module: what both import when they are called, if anything.
        learned: the fitted attributes that hold all it has learned, each an array or a list of arrays. Empty: it is
            made again by fitting it to the same features, which are saved (nearest neighbours *are* their features).
        dense: whether it takes no sparse features.
    """

    classifier: Maker
    regressor: Maker | None
    module: str | None = None
    learned: tuple[str, ...] = ()
    dense: bool = False

    def make(self, problem: str, options: ClassicalOptions, seed: int) -> Any:
        """One that is not fitted; one without a regressor is refused for scores before."""
        maker = self.regressor if problem == "regression" else self.classifier
        assert maker is not None
        return maker(options, seed)

    def arrays(self, fitted: Any) -> dict[str, np.ndarray]:
        """What it has learned, by name; a list's arrays are numbered."""
        found: dict[str, np.ndarray] = {}
        for name in self.learned:
            value = getattr(fitted, name)
            several = {f"{name}{i}": array for i, array in enumerate(value)} if isinstance(value, list) else {}
            found |= several or {name: np.atleast_1d(value)}
        return found

    def put_back(self, estimator: Any, arrays: dict[str, np.ndarray], columns: int, targets: np.ndarray) -> None:
        """Make a fresh estimator what `arrays` was read from.

        It is fitted to a row of zeros for each of `targets` (all classes), which gives it its shape, and then its
        public attributes are replaced.
        """
        from scipy.sparse import csr_matrix

        rows = np.zeros((len(targets), columns)) if self.dense else csr_matrix((len(targets), columns))
        passes = estimator.get_params().get("max_iter")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zeros teach nothing
            estimator.set_params(**({"max_iter": 1} if passes else {})).fit(rows, targets)
        estimator.set_params(**({"max_iter": passes} if passes else {}))
        for name in self.learned:
            several = [arrays[key] for key in (f"{name}{i}" for i in range(len(arrays))) if key in arrays]
            setattr(estimator, name, several or arrays[name])


LINEAR, BAYES, NEAR, SVM = "sklearn.linear_model", "sklearn.naive_bayes", "sklearn.neighbors", "sklearn.svm"
NETWORK, ENSEMBLE = "sklearn.neural_network", "sklearn.ensemble"


def _of(module: str, kind: str, **fixed: Any) -> Callable[..., Any]:
    """What makes the estimator of that name, imported when it does."""
    return lambda **options: imported(f"{module}:{kind}")(**fixed, **options)


def _network(kind: str) -> Maker:
    made = _of(NETWORK, kind, alpha=1e-4)
    return lambda o, seed: made(hidden_layer_sizes=(o.hidden,), max_iter=o.max_iter, random_state=seed)


def _trees(kind: str) -> Maker:
    """XGBoost's defaults: depth 6, rate 0.3, an L2 penalty of 1, no limit on leaves, no early stop."""
    made = _of(ENSEMBLE, kind, l2_regularization=1.0, max_leaf_nodes=None, min_samples_leaf=1,
               early_stopping=False, max_bins=BINS)  # fmt: skip
    return lambda o, seed: made(max_iter=o.trees, max_depth=o.depth, learning_rate=o.rate, random_state=seed)


_logistic, _ridge = _of(LINEAR, "LogisticRegression"), _of(LINEAR, "Ridge")
_bayes, _gaussian = _of(BAYES, "MultinomialNB"), _of(BAYES, "GaussianNB")
_near, _near_mean = _of(NEAR, "KNeighborsClassifier"), _of(NEAR, "KNeighborsRegressor")
_svc, _svr = _of(SVM, "SVC", gamma="auto"), _of(SVM, "SVR", gamma="auto")

ESTIMATORS: dict[str, Estimator] = {
    "majority": Estimator(lambda o, seed: MostFrequent(), lambda o, seed: Mean()),
    "logistic": Estimator(
        lambda o, seed: _logistic(C=o.c, max_iter=o.max_iter),
        lambda o, seed: _ridge(alpha=1.0 / o.c),
        LINEAR,
        learned=("coef_", "intercept_"),
    ),
    "naive_bayes": Estimator(
        lambda o, seed: _bayes(alpha=o.smoothing), None, BAYES, learned=("feature_log_prob_", "class_log_prior_")
    ),
    "gaussian_naive_bayes": Estimator(
        lambda o, seed: _gaussian(), None, BAYES, learned=("theta_", "var_", "class_prior_"), dense=True
    ),
    "neighbours": Estimator(
        lambda o, seed: _near(n_neighbors=o.neighbours), lambda o, seed: _near_mean(n_neighbors=o.neighbours), NEAR
    ),
    "mlp": Estimator(_network("MLPClassifier"), _network("MLPRegressor"), NETWORK, learned=("coefs_", "intercepts_")),
    "boosted_trees": Estimator(
        _trees("HistGradientBoostingClassifier"), _trees("HistGradientBoostingRegressor"), ENSEMBLE, dense=True
    ),
    "svm": Estimator(lambda o, seed: _svc(C=o.c), lambda o, seed: _svr(C=o.c), SVM),
}
"""`method.classical.estimator` -> the model."""
