"""The `classical` stage: a scikit-learn model on features. The floors that every table needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.errors import UsageError
from peftbench.files import write_atomic
from peftbench.formulations.predictions import Prediction
from peftbench.records import manifest
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.classical.features import EmbeddingFeatures, Features, NoFeatures, TfidfFeatures
from peftbench.tasks.base import Row, bare_task

if TYPE_CHECKING:
    from peftbench.records.record import Record

ARRAYS, FACTS = "classical.safetensors", "classical.json"


class ClassicalPredictor(Predictor):
    """A fitted estimator with its features."""

    def __init__(self, features: Features, estimator: Any, context: Context) -> None:
        self.features = features
        self.estimator = estimator
        self.context = context
        self.own_remarks: list[str] = []

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        if not rows:
            return []
        matrix = self.features.transform(rows)
        answers = self.estimator.predict(matrix)
        if not hasattr(self.estimator, "predict_proba"):
            return [Prediction(row.id, float(a)) for row, a in zip(rows, answers, strict=True)]
        names = [str(c) for c in self.estimator.classes_]
        probabilities = np.atleast_2d(self.estimator.predict_proba(matrix)).tolist()
        return [
            Prediction(row.id, str(answer), dict(zip(names, p, strict=True)))
            for row, answer, p in zip(rows, answers, probabilities, strict=True)
        ]

    def counts(self) -> dict[str, int]:
        head = sum(np.size(getattr(self.estimator, name, ())) for name in ("coef_", "intercept_"))
        return {"module": 0, "head": int(head), "total": int(head)}

    def remarks(self) -> list[str]:
        return [*self.features.remarks(), *self.own_remarks]

    def save(self, folder: Path) -> None:
        """`classical.safetensors` (coefficients, weights of terms) and `classical.json` (classes, terms)."""
        from safetensors.numpy import save_file

        arrays, facts = self.features.state()
        own_arrays, own_facts = estimator_state(self.estimator)
        folder.mkdir(parents=True, exist_ok=True)
        # safetensors writes the memory as it lies: contiguous, or it is another matrix
        every = {name: np.ascontiguousarray(array) for name, array in {**arrays, **own_arrays}.items()}
        save_file(every, folder / ARRAYS)
        write_atomic(folder / FACTS, json.dumps({**facts, **own_facts}, ensure_ascii=False).encode())

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote, into features and an estimator fresh from the same config."""
        from safetensors.numpy import load_file

        arrays, facts = load_file(folder / ARRAYS), json.loads((folder / FACTS).read_bytes())
        self.features.load_state(arrays, facts)
        self.estimator = loaded_estimator(self.estimator, arrays, facts)

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


def classical(context: Context, incoming: Predictor | None) -> Predictor:
    """Fit the method's estimator on the drawn rows. Needs at least one labelled row."""
    if not context.draw.train:
        raise UsageError(f"shots=0: method={context.cfg.method.name} has nothing to fit on. Use shots of 1 and more.")
    predictor, only = unfitted(context), only_class(context)
    if only is not None:
        predictor.estimator = constant()
        predictor.own_remarks = [f"train has one class, `{only}`: it is the answer to everything"]
    features, estimator = predictor.features, predictor.estimator
    report = StageReport("classical")
    before = context.clock.wall["train"]
    with context.clock("train"), context.meter.phase("train"):
        targets = np.array([row.target for row in context.draw.train])
        matrix = features.fit(context.draw.train)
        estimator.fit(matrix, targets)
    report.seconds = context.clock.wall["train"] - before
    if context.draw.dev:
        report.dev_score = context.dev_score(predictor)
    context.reports.append(report)
    return predictor


def only_class(context: Context) -> str | None:
    """The class of all train rows, if there is one only: a logistic regression has nothing to tell apart then."""
    classes = {str(row.target) for row in context.draw.train}
    return classes.pop() if context.data.problem == "classification" and len(classes) == 1 else None


def constant() -> Any:
    """An estimator that answers with the most frequent class."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="most_frequent")


def unfitted(context: Context) -> ClassicalPredictor:
    """The method's features and estimator before they have seen a row."""
    kinds: dict[str, Callable[[Context], Features]] = {
        "none": lambda _: NoFeatures(),
        "tfidf": TfidfFeatures,
        "embeddings": EmbeddingFeatures,
    }
    features = kinds[context.cfg.method.options("classical").features](context)
    return ClassicalPredictor(features, make_estimator(context), context)


def estimator_state(estimator: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and facts of a fitted estimator."""
    arrays = {n: np.atleast_1d(getattr(estimator, n)) for n in ("coef_", "intercept_") if hasattr(estimator, n)}
    facts: dict[str, Any] = {}
    if hasattr(estimator, "classes_"):
        facts["classes"] = [str(c) for c in estimator.classes_]
    if not arrays:  # the answer is the same for every row
        facts["answer"] = estimator.predict(np.zeros((1, 1)))[0].item()
    return arrays, facts


def loaded_estimator(estimator: Any, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Any:
    """What `estimator_state` was read from; `estimator` is one of its kind that is not fitted."""
    if "answer" in facts:  # fitted anew, on targets in which the answer is the most frequent or the mean
        targets = np.array([*facts.get("classes", ()), facts["answer"]])
        answer = constant() if "classes" in facts else estimator
        return answer.fit(np.zeros((len(targets), 1)), targets)
    for name in ("coef_", "intercept_"):
        setattr(estimator, name, arrays[name] if "classes" in facts else np.squeeze(arrays[name]))
    estimator.n_features_in_ = arrays["coef_"].shape[-1]
    if "classes" in facts:
        estimator.classes_ = np.array(facts["classes"])
    return estimator


def make_estimator(context: Context) -> Any:
    """Majority class or logistic regression; for a regression task the mean or ridge regression."""
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    cfg = context.cfg.method.options("classical")
    if context.data.problem not in ("classification", "regression"):
        raise UsageError(
            f"method={context.cfg.method.name}: gives a class or a score a row, and task={context.data.name} is a "
            f"{context.data.problem} task. Use a method with a backbone, such as method=head_only."
        )
    regression = context.data.problem == "regression"
    if cfg.estimator == "majority":
        return DummyRegressor() if regression else constant()
    if regression:
        return Ridge(alpha=1.0 / cfg.c)
    return LogisticRegression(C=cfg.c, max_iter=cfg.max_iter)
