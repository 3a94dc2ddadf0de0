"""The trick `adversarial`: the answer must not change when the word embeddings change a little. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.config import registry
from peftbench.config.schema import TrickConfig, number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.stages.tricks.base import Trick

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig


NO_WORDS = (
    "method.trick.adversarial: {method} does not look its words up in the network's word embeddings, so that they "
    "cannot be changed. Use another tuner, such as method/tuner=lora."
)


@packaged("method/trick/adversarial", "adversarial")
@dataclass
class AdversarialOptions(TrickConfig):
    """`method.trick.adversarial`."""

    form: str = one_of("sift", "freelb")
    steps: int = number(ge=1)
    noise: float = number(ge=0)
    step: float = number(ge=0)
    epsilon: float | None = number(ge=0)
    alpha: float = number(ge=0)


def neutral(options: AdversarialOptions) -> bool:
    """Whether nothing may be moved, or it counts nothing."""
    still = options.epsilon == 0 or options.noise == options.step == 0
    return still or (options.form == "sift" and options.alpha == 0)


def fits(options: AdversarialOptions, run: RunConfig) -> None:
    """Raises UsageError where two tricks want the clean pass each for itself, or the tuner hides the words."""
    tuner = run.method.tuner
    if registry.is_declared("tuner", tuner.name) and registry.get("tuner", tuner.name).replaces_words(tuner):
        raise UsageError(NO_WORDS.format(method=f"method={run.method.name}"))
    if options.form == "freelb" and any(other.name == "r_drop" for other in run.method.trick.values()):
        raise UsageError(
            "method.trick.adversarial.form=freelb: has no clean pass that `r_drop` could compare with another. Use "
            "method.trick.adversarial.form=sift, or one of the two."
        )


TRICK = Trick(
    AdversarialOptions,
    loss="peftbench.stages.tricks.adversarial.perturbation:adversarial",
    neutral=neutral,
    needs_scores=lambda options: options.form == "sift",
    problems=frozenset(),
    fits=fits,
)
