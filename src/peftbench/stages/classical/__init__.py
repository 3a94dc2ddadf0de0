"""The `classical` stage: a scikit-learn model on features. The floors that every table needs."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import number, numbers, one_of, packaged
from peftbench.stages.base import Stage


@packaged("method/tfidf_lr", "classical")
@dataclass
class ClassicalOptions:
    """`method.classical`: features and the model on them."""

    features: str = one_of("none", "tfidf", "embeddings")
    estimator: str = one_of("majority", "logistic")
    c: float = number(gt=0)
    word_ngrams: list[int] = numbers(ge=1)
    char_ngrams: list[int] = numbers(ge=1)
    max_iter: int = number(ge=1)


STAGE = Stage(
    run="peftbench.stages.classical.floors:classical",
    options=ClassicalOptions,
    section="classical",
    needs_learner=False,
    several_processes=False,
    trains=False,
    one_training=True,
    modules=("sklearn.linear_model", "sklearn.dummy", "sklearn.feature_extraction.text"),
)
