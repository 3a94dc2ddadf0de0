"""`cloze`: the task as a text with one masked word, answered by the scores of each label's words at the mask."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from peftbench.config.schema import FormulationConfig, number, one_of, packaged
from peftbench.errors import did_you_mean
from peftbench.formulations.declared import Declared, fingerprint

CLOZE_WORDS = ("task", "names", "terms", "auto")
"""What `method.formulation.words` may be besides a file."""


@packaged("method/formulation/cloze")
@dataclass
class ClozeConfig(FormulationConfig):
    """`conf/method/formulation/cloze.yaml`."""

    patterns: str = MISSING
    prefer: list[str] = field(default_factory=list)
    pattern: int = number(ge=0)
    template: str | None = MISSING
    demonstrations: int = number(ge=0)
    demonstrations_nearest: float = number(gt=0, le=1)
    demonstrations_encoder: str = MISSING
    soft_pattern: bool = MISSING
    split_words: str = one_of("mean", "first", "error")
    shared_words: str = one_of("keep", "drop")
    train_head: bool = MISSING
    words: str = MISSING
    words_sha256: str | None = MISSING
    """Fingerprint of the file that `words` names, set when the config is composed."""
    verbalizer: str = one_of("manual", "knowledgeable", "weighted", "soft")
    learn_weights: bool = MISSING
    calibration: str = one_of("none", "contextual", "prior")
    prior_rows: int | None = number(ge=1)
    drop_unlikely: float = number(ge=0, le=0.99)

    def second_model(self) -> str | None:
        return self.demonstrations_encoder if self.demonstrations and self.demonstrations_nearest < 1 else None


def variant(cfg: ClozeConfig, family: str, problem: str) -> str:
    """Encoder-decoders fill a sentinel; demonstrations and a trained pattern are what a masked LM can have besides."""
    if family == "seq2seq":
        return "peftbench.formulations.sentinel:SentinelCloze"
    if cfg.demonstrations:
        return "peftbench.formulations.demonstrations:DemonstratedCloze"
    if cfg.soft_pattern:
        return "peftbench.formulations.soft_pattern:SoftPatternCloze"
    return "peftbench.formulations.cloze.formulation:ClozeFormulation"


def fingerprint_words(cfg: ClozeConfig) -> None:
    """Put the absolute path and the SHA-256 of a user's file of label words into the options.

    Raises:
        UsageError: there is no such file, or it is not the one that the run began with.
    """
    if cfg.words in CLOZE_WORDS:
        return
    fingerprint(cfg, "words", f"neither a file nor a choice. {did_you_mean(cfg.words, CLOZE_WORDS)}")


FORMULATION = Declared(
    variant,
    frozenset({"encoder", "seq2seq"}),
    options=ClozeConfig,
    uses=("task.cloze",),
    results_version=2,  # separators between demonstrations, `{text:cut}`
    can_answer_untrained=True,
    class_scores=True,
    settle=fingerprint_words,
)
