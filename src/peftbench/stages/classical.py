"""The `classical` stage: a scikit-learn model on features. The floors that every table needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.errors import UsageError
from peftbench.formulations.predictions import Prediction
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.features import EmbeddingFeatures, Features, NoFeatures, TfidfFeatures
from peftbench.tasks.base import Row


class ClassicalPredictor(Predictor):
    """A fitted estimator with its features."""

    def __init__(self, features: Features, estimator: Any, remarks: Sequence[str] = ()) -> None:
        self.features = features
        self.estimator = estimator
        self.own_remarks = list(remarks)

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
        """Nothing: the model is refitted from the draw in seconds, and a pickle is never written."""


def classical(context: Context, incoming: Predictor | None) -> Predictor:
    """Fit the method's estimator on the drawn rows. Needs at least one labelled row."""
    cfg = context.cfg.method.classical
    if not context.draw.train:
        raise UsageError(f"shots=0: method={context.cfg.method.name} has nothing to fit on. Use shots of 1 and more.")
    features: Features = {"none": lambda _: NoFeatures(), "tfidf": TfidfFeatures, "embeddings": EmbeddingFeatures}[
        cfg.features
    ](context)
    only = only_class(context)
    estimator = make_estimator(context) if only is None else constant()
    report = StageReport("classical")
    before = context.clock.wall["train"]
    with context.clock("train"), context.meter.phase("train"):
        targets = np.array([row.target for row in context.draw.train])
        matrix = features.fit(context.draw.train)
        estimator.fit(matrix, targets)
    report.seconds = context.clock.wall["train"] - before
    remarks = [f"train has one class, `{only}`: it is the answer to everything"] if only is not None else []
    predictor = ClassicalPredictor(features, estimator, remarks)
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


def make_estimator(context: Context) -> Any:
    """Majority class or logistic regression; for a regression task the mean or ridge regression."""
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    cfg = context.cfg.method.classical
    if context.data.problem == "tuples":
        raise UsageError("task: extraction subtasks (tuples) need a method that writes tuples.")
    regression = context.data.problem == "regression"
    if cfg.estimator == "majority":
        return DummyRegressor() if regression else constant()
    if regression:
        return Ridge(alpha=1.0 / cfg.c)
    return LogisticRegression(C=cfg.c, max_iter=cfg.max_iter)
