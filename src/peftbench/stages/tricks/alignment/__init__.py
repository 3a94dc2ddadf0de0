"""The trick `alignment`: an instruction in other words must be answered as in those of the reference. Declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.config import registry
from peftbench.config.schema import TrickConfig, number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.formulations.wordings import WordingsConfig
from peftbench.stages.tricks.base import Trick

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.stages.base import Context

KEY = "method.trick.alignment"


@packaged("method/trick/alignment", "alignment")
@dataclass
class AlignmentOptions(TrickConfig):
    """`method.trick.alignment`."""

    weight: float = number(ge=0, le=1)
    form: str = one_of("labels", "vocabulary")
    direction: str = one_of("forward", "reverse", "both")
    teacher: str = one_of("bare", "tuned")


def fits(options: AlignmentOptions, run: RunConfig) -> None:
    """Raises UsageError if there are no wordings, or if another trick would make the loss, too."""
    formulation = run.method.formulation
    if formulation.name != "wordings":
        raise UsageError(
            f"{KEY}: compares several wordings of an instruction, and method/formulation={formulation.name} has one. "
            "Use method/formulation=wordings."
        )
    others = [o.name for o in run.method.trick.values() if o.name != options.name]
    if rival := next((name for name in others if registry.get("trick", name).loss), None):
        raise UsageError(f"{KEY}: makes the loss, and so does method.trick.{rival}. Take one of the two out.")


def check(options: AlignmentOptions, context: Context) -> None:
    """Raises UsageError if answers that differ between the trained wordings were to be compared token by token."""
    from peftbench.formulations.wordings.templates import collect

    cfg = context.cfg.method.formulation
    assert isinstance(cfg, WordingsConfig)
    trained = collect(cfg, context.data).wordings[: cfg.observed if cfg.train_on == "observed" else 1]
    if options.form == "vocabulary" and any(one.words != trained[0].words for one in trained):
        raise UsageError(
            f"{KEY}.form=vocabulary: compares answers token by token, and these templates have other answers in other "
            "wordings. Use method.formulation.words=task, or form=labels."
        )


TRICK = Trick(
    AlignmentOptions,
    targets="peftbench.stages.tricks.alignment.agreement:with_teacher",
    loss="peftbench.stages.tricks.alignment.agreement:aligned",
    neutral=lambda options: options.weight == 0,
    problems=frozenset({"classification"}),
    fits=fits,
    check=check,
    order=1,
)
