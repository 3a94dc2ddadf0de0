"""What an inference declares of itself, and what it is given. Free of torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from peftbench.config.components import choices
from peftbench.config.registry import imported
from peftbench.config.schema import InferenceConfig
from peftbench.errors import UsageError, a_or_an
from peftbench.formulations.declared import declaration
from peftbench.formulations.predictions import Prediction

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.formulations.base import Batch
    from peftbench.learner import Learner
    from peftbench.tasks.base import Row

SCORE, TEXT = "score", "text"
"""How a formulation answers: with the likeliest label, or with what is written (`formulations.declared.Declared`)."""


class Ask(Protocol):
    """Asks a learner about rows; batches are made by length."""

    def __call__(
        self,
        rows: Sequence[Row],
        predict: Callable[[Batch], list[Prediction]] | None = None,
        learner: Learner | None = None,
    ) -> list[Prediction]:
        """One prediction a row, in order.

        Args:
            predict: what answers a batch, in eval mode under `torch.no_grad()`; None: the learner.
            learner: another one than the finished one (`Learner.with_formulation`).
        """


class Inference(ABC):
    """Draws answers from a learner that nothing trains any more; it leaves the learner as it was.

    Attributes:
        pools: whether what it keeps beside an answer is of several, not the text that was written.
        needs_shots: whether it looks at the drawn training rows (`Formulation.shots`).
        sums: numbers about its answers so far, added up over rows; those of several processes are added, too.
    """

    pools = False
    needs_shots = False

    def __init__(self, cfg: Any, learner: Learner) -> None:
        self.cfg, self.learner = cfg, learner
        self.sums: Counter[str] = Counter()

    @abstractmethod
    def answer(self, rows: Sequence[Row], ask: Ask) -> list[Prediction]:
        """One prediction a row, in order. That of a row depends on nothing but the row and the learner."""

    def facts(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What the record tells of the answers, from `sums`."""
        return dict(sums)

    def remarks(self) -> list[str]:
        """What a reader of the result must know."""
        return []


def anything(options: Any, run: RunConfig) -> None:
    """No objection."""


@dataclass(frozen=True)
class Declared:
    """An inference's declaration. The module that makes it, as the constant `INFERENCE`, imports nothing heavy.

    Attributes:
        build: the subclass of `Inference`, or where it is, "module:Class"; None of `plain`.
        options: dataclass of `method.inference`.
        neutral: whether the options change nothing; the run is the plain one then.
        draws: the ways of answering that it can do something with, `SCORE` and `TEXT`.
        families: of backbones that it fits.
        problems: kinds of targets that it is made for; empty: any that the formulation answers.
        fits: `fits(options, run)`, asked when a config is composed; raises UsageError.
        settle: completes the options when the config is composed, as by hashes of the files that they name; raises
            UsageError.
        uses: dotted keys and sections of the config, besides its own, that decide what it does.
        results_version: raised when the same keys would give other numbers; renames the runs that have it.
    """

    build: type[Inference] | str | None
    options: type[InferenceConfig] = InferenceConfig
    neutral: Callable[[Any], bool] = lambda options: False
    draws: tuple[str, ...] = (SCORE, TEXT)
    families: frozenset[str] = frozenset({"seq2seq", "causal"})
    problems: frozenset[str] = frozenset()
    fits: Callable[[Any, RunConfig], None] = anything
    settle: Callable[[Any], None] | None = None
    uses: tuple[str, ...] = ()
    results_version: int = 1

    def __call__(self, cfg: InferenceConfig, learner: Learner) -> Inference:
        """The inference with these options."""
        made: Inference = imported(self.build)(cfg, learner)
        return made

    def check(self, run: RunConfig) -> None:
        """Raises UsageError, before anything is loaded, if it has nothing to draw from in this run."""
        name, chosen = f"method/inference={run.method.inference.name}", choices(run)
        if not run.method.needs_model:
            raise UsageError(f"{name}: draws from a language model, and method={run.method.name} has none. Use plain.")
        if chosen.tasks:
            raise UsageError(f"{name}: is made for a single task, and task={run.task.name} is a sequence. Use plain.")
        if chosen.family not in self.families:
            fits = " or ".join(sorted(self.families))
            raise UsageError(
                f"{name} does not fit {a_or_an(chosen.family)} backbone, but a {fits} one: model=smollm2-135m."
            )
        if self.problems and chosen.problem not in self.problems:
            raise UsageError(
                f"{name} does not fit a task with {chosen.problem} targets. It fits {', '.join(sorted(self.problems))}."
            )
        how = answers_by(run)
        if how not in self.draws:
            others = [n for n in ("score", "generate") if declaration(n).draws in self.draws]
            able = [n for n in others if chosen.problem in declaration(n).problems]
            way = f"Use method/formulation={able[0]}" if able else f"There is no other for {chosen.problem} targets"
            raise UsageError(
                f"{name}: has nothing to draw from where answers are by {how or 'a head'} (method/formulation="
                f"{run.method.formulation.name}). {way}; of prompted, method.formulation.by says which."
            )
        self.fits(run.method.inference, run)


def answers_by(run: RunConfig) -> str:
    """`SCORE`, `TEXT`, or "" of a formulation that does not answer in words."""
    chosen, known = choices(run), declaration(run.method.formulation.name)
    if known.stands_for is not None:
        known = declaration(known.stands_for(chosen.family, run.labelled, chosen.problem))
    said = known.draws
    return said if isinstance(said, str) else said(run.method.formulation, chosen.problem)
