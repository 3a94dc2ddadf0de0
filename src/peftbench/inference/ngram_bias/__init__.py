"""The inference `ngram_bias`: log-probabilities of a small n-gram model are added to the network's. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from peftbench.config import registry
from peftbench.config.schema import InferenceConfig, number, numbers, packaged
from peftbench.errors import UsageError
from peftbench.inference.base import SCORE, Declared, answers_by

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

FILE = "method/inference/ngram_bias"


@packaged(FILE)
@dataclass
class NgramBiasConfig(InferenceConfig):
    """`conf/method/inference/ngram_bias.yaml`."""

    weight: float = number(ge=0)
    file: str | None = MISSING
    sha256: str | None = MISSING
    """Fingerprint of the file that `file` names, set when the config is composed."""
    orders: list[float] = numbers(ge=0)
    smoothing: float = number(gt=0)


def settle(cfg: NgramBiasConfig) -> None:
    """Raises UsageError if there is no such corpus, it is not the one that the run began with, or no order counts."""
    if not sum(cfg.orders):
        raise UsageError(
            f"method.inference.orders={cfg.orders}: the weights of 1-grams, 2-grams ..., not all of them 0."
        )
    if cfg.file is None:
        return
    path, key = Path(cfg.file).expanduser().resolve(), f"method.inference.file={cfg.file}"
    if not path.is_file():
        raise UsageError(
            f"{key}: no such file. It is a text file of the style, a passage a line; null: the drawn rows."
        )
    digest = registry.sha256(path)
    if cfg.sha256 not in (None, digest):
        raise UsageError(f"{key}: was edited since this run began. Start it again.")
    cfg.file, cfg.sha256 = str(path), digest


def fits(cfg: NgramBiasConfig, run: RunConfig) -> None:
    """Raises UsageError if there is nothing to count."""
    scored = answers_by(run) == SCORE
    if scored and cfg.file is not None:
        raise UsageError(
            f"method.inference.file={cfg.file}: where labels are scored, n-grams are counted in the drawn rows of "
            "each class. Set it to null, or let answers be written: method/formulation=generate."
        )
    if cfg.file is None and run.labelled == 0:
        raise UsageError(
            "method/inference=ngram_bias: shots=0 leaves no row to count n-grams in. Give some shots"
            + ("." if scored else ", or method.inference.file=FILE.")
        )


INFERENCE = Declared(
    "peftbench.inference.ngram_bias.bias:NgramBias",
    options=NgramBiasConfig,
    neutral=lambda cfg: cfg.weight == 0,
    fits=fits,
    settle=settle,
)
