"""The `classical` stage: a scikit-learn model on features. The floors that every table needs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.formulations.predictions import Prediction
from peftbench.records import manifest
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.classical.constant import MostFrequent
from peftbench.stages.classical.estimators import ESTIMATORS, Estimator
from peftbench.stages.classical.features import EmbeddingFeatures, Features, NgramFeatures, NoFeatures
from peftbench.stages.classical.word_vectors import WordVectorFeatures
from peftbench.tasks.base import Row, bare_task

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.records.record import Record

ARRAYS, FACTS = "classical.safetensors", "classical.json"
FITTED_ON = "fitted_on_"
"""In front of the arrays of the train rows' features, of an estimator that is made again from them."""
FEATURES: dict[str, type[Features]] = {
    "none": NoFeatures,
    "tfidf": NgramFeatures,
    "counts": NgramFeatures,
    "embeddings": EmbeddingFeatures,
    "word_vectors": WordVectorFeatures,
}
"""`method.classical.features` -> what makes them."""


class ClassicalPredictor(Predictor):
    """An estimator with its features."""

    def __init__(self, features: Features, kind: Estimator, context: Context) -> None:
        self.features, self.kind, self.context = features, kind, context
        self.estimator = kind.make(context.data.problem, context.cfg.method.options("classical"), context.cfg.seed)
        self.fitted_on: tuple[Any, np.ndarray] | None = None
        """Features of the train rows and their targets, where they are all that was learned."""
        self.own_remarks: list[str] = []

    def fit(self, rows: Sequence[Row]) -> None:
        """Fit features and estimator to labelled rows."""
        targets, matrix = np.array([row.target for row in rows]), self._matrix(self.features.fit(rows))
        if (only := only_class(self.context)) is not None:
            self.kind, self.estimator = ESTIMATORS["majority"], MostFrequent()
            self.own_remarks = [f"train has one class, `{only}`: it is the answer to everything"]
        self.own_remarks += _fit(self.estimator, matrix, targets)
        if not self.kind.learned:
            self.fitted_on = matrix, targets

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        if not rows:
            return []
        matrix = self._matrix(self.features.transform(rows))
        answers = self.estimator.predict(matrix)
        if self.context.data.problem == "regression":
            return [Prediction(row.id, float(a)) for row, a in zip(rows, answers, strict=True)]
        scores = self._probabilities(matrix)
        return [Prediction(row.id, str(a), p) for row, a, p in zip(rows, answers, scores, strict=True)]

    def _matrix(self, features: Any) -> Any:
        return features.toarray() if self.kind.dense and not isinstance(features, np.ndarray) else features

    def _probabilities(self, matrix: Any) -> list[dict[str, float]]:
        """Class -> probability for each row; empty where the model has none (a support vector machine)."""
        if not hasattr(self.estimator, "predict_proba"):
            return [{} for _ in range(matrix.shape[0])]
        names = [str(c) for c in self.estimator.classes_]
        rows = np.atleast_2d(self.estimator.predict_proba(matrix)).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def counts(self) -> dict[str, int]:
        head = sum(array.size for array in self.kind.arrays(self.estimator).values())
        return {"module": 0, "head": int(head), "total": int(head)}

    def remarks(self) -> list[str]:
        return [*self.features.remarks(), *self.own_remarks]

    def save(self, folder: Path) -> None:
        """`classical.safetensors` (what was learned, weights of terms) and `classical.json` (classes, terms)."""
        from safetensors.numpy import save_file

        arrays, facts = self.features.state()
        own_arrays, own_facts = self._state()
        folder.mkdir(parents=True, exist_ok=True)
        # safetensors writes the memory as it lies: contiguous, or it is another matrix
        every = {name: np.ascontiguousarray(array) for name, array in {**arrays, **own_arrays}.items()}
        save_file(every, folder / ARRAYS)
        write_atomic(folder / FACTS, json.dumps({**facts, **own_facts}, ensure_ascii=False).encode())

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and facts of the fitted estimator."""
        facts: dict[str, Any] = {"classes": [str(c) for c in getattr(self.estimator, "classes_", ())]}
        if self.fitted_on is None:
            return self.kind.arrays(self.estimator), {**facts, "columns": int(self.estimator.n_features_in_)}
        matrix, targets = self.fitted_on
        if self.kind is ESTIMATORS["majority"]:  # the answer is the same for every row
            return {}, {**facts, "answer": self.estimator.predict(matrix[:1])[0].item()}
        parts = {"dense": matrix} if isinstance(matrix, np.ndarray) else _csr_parts(matrix)
        return {f"{FITTED_ON}{n}": a for n, a in parts.items()}, {**facts, "targets": targets.tolist()}

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote, into features and an estimator fresh from the same config."""
        from safetensors.numpy import load_file

        arrays, facts = load_file(folder / ARRAYS), json.loads((folder / FACTS).read_bytes())
        self.features.load_state(arrays, facts)
        classes = facts.get("classes", ())
        if "answer" in facts:  # fitted anew, on targets in which the answer is the most frequent or the mean
            self.kind = ESTIMATORS["majority"]
            self.estimator = MostFrequent() if classes else self.estimator
            targets = np.array([*classes, facts["answer"]])
            self.estimator.fit(np.zeros((len(targets), 1)), targets)
        elif "targets" in facts:
            parts = {n.removeprefix(FITTED_ON): a for n, a in arrays.items() if n.startswith(FITTED_ON)}
            _fit(self.estimator, parts["dense"] if "dense" in parts else _csr(parts), np.array(facts["targets"]))
        else:
            columns = facts.get("columns") or arrays["coef_"].shape[-1]
            self.kind.put_back(self.estimator, arrays, columns, np.array(classes or [0.0, 1.0]))

    def manifest(self, record: Record) -> dict[str, Any] | None:
        context, backbone = self.context, self.features.backbone
        names = ("name", "family", "purpose", "revision", "pooling", "prefix", "hidden_size")
        return manifest.make(
            record,
            context.cfg,
            bare_task(context.data),
            kind="classical",
            pairs=context.has_pairs(),
            backbone={name: getattr(backbone, name) for name in names} if backbone else None,
        )


def check(context: Context) -> None:
    """Whether the estimator can be fitted to the draw at all.

    Raises:
        UsageError: there is no labelled row, no file of word vectors, the model knows no such targets, or has more
            neighbours than rows.
    """
    cfg, rows, method = context.cfg.method.options("classical"), len(context.draw.train), context.cfg.method.name
    if not rows:
        raise UsageError(f"shots=0: method={method} has nothing to fit on. Use shots of 1 and more.")
    if context.data.problem not in ("classification", "regression"):
        raise UsageError(
            f"method={method}: gives a class or a score a row, and the targets of task={context.data.name} are "
            f"{context.data.problem}. Use a method with a backbone, such as method=lora."
        )
    if context.data.problem == "regression" and ESTIMATORS[cfg.estimator].regressor is None:
        fits = ", ".join(name for name, kind in ESTIMATORS.items() if kind.regressor)
        raise UsageError(
            f"method.classical.estimator={cfg.estimator}: knows classes, and task={context.data.name} has scores. "
            f"These know scores: {fits}."
        )
    FEATURES[cfg.features](context)
    if cfg.estimator == "neighbours" and cfg.neighbours > rows:
        raise UsageError(
            f"method.classical.neighbours={cfg.neighbours}: the draw has {rows} rows. "
            f"Use {rows} or fewer, or more shots."
        )


def modules(cfg: RunConfig) -> list[str]:
    """What the method's features and estimator import."""
    options = cfg.method.options("classical")
    own = ESTIMATORS[options.estimator].module
    return [*FEATURES[options.features].modules, *([own] if own else [])]


def classical(context: Context, incoming: Predictor | None) -> Predictor:
    """Fit the method's estimator on the drawn rows."""
    predictor = unfitted(context)
    report = StageReport("classical")
    before = context.clock.wall["train"]
    with context.clock("train"), context.meter.phase("train"):
        predictor.fit(context.draw.train)
    report.seconds = context.clock.wall["train"] - before
    if context.draw.dev:
        report.dev_score = context.dev_score(predictor)
    context.reports.append(report)
    return predictor


def only_class(context: Context) -> str | None:
    """The class of all train rows, if there is one only: most models have nothing to tell apart then."""
    classes = {str(row.target) for row in context.draw.train}
    return classes.pop() if context.data.problem == "classification" and len(classes) == 1 else None


def unfitted(context: Context) -> ClassicalPredictor:
    """The method's features and estimator before they have seen a row."""
    cfg = context.cfg.method.options("classical")
    return ClassicalPredictor(FEATURES[cfg.features](context), ESTIMATORS[cfg.estimator], context)


def _fit(estimator: Any, matrix: Any, targets: np.ndarray) -> list[str]:
    """Fit; what scikit-learn warns of a solver that did not converge, in a line."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        estimator.fit(matrix, targets)
    stopped = any(w.category.__name__ == "ConvergenceWarning" for w in said)
    return [f"the solver stopped before it converged (max_iter={estimator.max_iter})"] if stopped else []


def _csr_parts(matrix: Any) -> dict[str, np.ndarray]:
    return {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": np.array(matrix.shape)}


def _csr(parts: dict[str, np.ndarray]) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"]))
