"""Tricks: options of the `supervised` stage that change its targets, its loss, its steps or what follows them.

`+method/trick=adversarial`, or several: `'+method/trick=[self_calibrated,adversarial,transductive]'`. A trick is a
module of this folder that declares itself by the constant `TRICK` (`base.Trick`), or a plug-in (`name` beside its
options). The order is fixed, whatever the order of the command: targets, then loss and steps, then what follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.config import registry
from peftbench.config.components import choices
from peftbench.config.schema import MethodConfig, TrickConfig
from peftbench.errors import UsageError
from peftbench.formulations import declared_for
from peftbench.stages.tricks.base import Trick

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.formulations.declared import Declared
    from peftbench.stages.base import Context

Chosen = list[tuple[Trick, TrickConfig]]
"""Tricks with their options, in the order in which they are at work."""


def chosen(method: MethodConfig) -> Chosen:
    """The tricks of a method."""
    found = [(registry.get("trick", options.name), options) for options in method.trick.values()]
    return sorted(found, key=lambda pair: (pair[0].order, pair[1].name))


def fits(run: RunConfig) -> None:
    """Whether the tricks go together with the rest of a config, as far as that is known without data or weights.

    Raises:
        UsageError: one of them has nothing to work on, or two exclude each other.
    """
    tricks = chosen(run.method)
    if not tricks:
        return
    if run.labelled == 0:
        raise UsageError(f"method.trick.{tricks[0][1].name}: shots=0 trains nothing. Give shots of 1 and more.")
    problem = choices(run).problem
    for trick, options in tricks:
        key = f"method.trick.{options.name}"
        if trick.problems and problem not in trick.problems:
            raise UsageError(
                f"{key}: is made for {' and '.join(sorted(trick.problems))}, and task={run.task.name} has {problem} "
                f"targets. Take the trick out, or choose another task."
            )
        if trick.needs_scores(options) and not _posed(run, problem).class_scores:
            raise UsageError(
                f"{key}: works on a row's class scores, and method/formulation={run.method.formulation.name} has none "
                "here. Use method/formulation=head, or method/formulation=cloze with a masked LM."
            )
        trick.fits(options, run)


def _posed(run: RunConfig, problem: str) -> Declared:
    """The formulation that is meant."""
    return declared_for(run.method.formulation, run.model.family, run.labelled, problem)


def check_run(context: Context) -> None:
    """Whether the tricks can do their part with the data that were drawn; raises UsageError if not."""
    for trick, options in chosen(context.cfg.method):
        trick.check(options, context)
