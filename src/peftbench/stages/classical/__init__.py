"""The `classical` stage: a scikit-learn model on features, or a constant answer. The floors that every table needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftbench.config.registry import sha256
from peftbench.config.schema import number, numbers, one_of, packaged
from peftbench.errors import UsageError
from peftbench.stages.base import Stage


@packaged("method/tfidf_lr", "classical")
@dataclass
class ClassicalOptions:
    """`method.classical`: features and the model on them."""

    features: str = one_of("none", "tfidf", "counts", "embeddings", "word_vectors")
    estimator: str = one_of(
        "majority", "logistic", "naive_bayes", "gaussian_naive_bayes", "neighbours", "mlp", "boosted_trees", "svm"
    )
    c: float = number(gt=0)
    word_ngrams: list[int] = numbers(ge=1)
    char_ngrams: list[int] = numbers(ge=1)
    max_iter: int = number(ge=1)
    vocabulary: str = one_of("train", "train+dev", default="train")
    max_terms: int | None = number(None, ge=1)
    smoothing: float = number(1.0, gt=0)
    neighbours: int = number(3, ge=1)
    hidden: int = number(100, ge=1)
    trees: int = number(100, ge=1)
    depth: int = number(6, ge=1)
    rate: float = number(0.3, gt=0)
    file: str | None = None
    sha256: str | None = None
    """Fingerprint of the file of word vectors, set when the config is composed."""


def settle(cfg: ClassicalOptions) -> None:
    """Put the absolute path and the SHA-256 of the file of word vectors into the options.

    Raises:
        UsageError: there is no such file, or it is not the one that the run began with.
    """
    if cfg.file is None:
        return
    path = Path(cfg.file).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"method.classical.file={cfg.file}: no such file.")
    digest = sha256(path)
    if cfg.sha256 not in (None, digest):
        raise UsageError(f"method.classical.file={cfg.file}: was edited since this run began. Start it again.")
    cfg.file, cfg.sha256 = str(path), digest


STAGE = Stage(
    run="peftbench.stages.classical.floors:classical",
    options=ClassicalOptions,
    section="classical",
    settle=settle,
    check="peftbench.stages.classical.floors:check",
    several_processes=False,
    trains=False,
    one_training=True,
    modules="peftbench.stages.classical.floors:modules",
)
