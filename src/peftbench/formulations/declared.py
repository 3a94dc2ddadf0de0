"""What a formulation declares of itself, so that a config can be checked without importing torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.config import registry
from peftbench.config.schema import FormulationConfig
from peftbench.errors import UsageError

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.formulations.base import Formulation

PROBLEMS = frozenset({"classification", "regression"})
"""What a formulation answers that says nothing else."""


@dataclass(frozen=True)
class Declared:
    """A formulation's declaration. The module that makes it, as the constant `FORMULATION`, imports nothing heavy.

    Attributes:
        implementation: the subclass of `peftbench.formulations.base.Formulation`; or where it is, "module:Class"; or
            `(options, family, problem)` -> either, for one of several variants. None if it takes no backbone.
        families: of backbones that it fits.
        options: dataclass of `method.formulation`; a plug-in reads `method.formulation.options` instead.
        uses: dotted keys and sections of the config, besides its own, that decide what it does.
        results_version: raised when the same keys would give other numbers; renames the runs that have it. Where only
            those of one kind of target changed: `{"regression": 2}`.
        problems: kinds of targets that it can answer with (`peftbench.tasks.problems`).
        can_answer_untrained: whether shots=0 makes sense (label strings: yes; a fresh head: no).
        class_scores: whether a row has a score for each class that can be trained on: its implementation has
            `logits(model, batch)`, (batch, classes) or one output a row in regression, and `loss_of(logits, batch)`,
            the sum over the batch of the loss that `loss` takes from them.
        writes: whether, with these options, its answers are text that is generated, so that they can be drawn and
            trained on token by token (its implementation is a `GenerateFormulation`).
        stands_for: `(family, shots, problem)` -> the name of the formulation that is meant, of a name that leaves it
            open.
        settle: completes the options when the config is composed, above all by hashes of the files that they name;
            raises UsageError.
        contents: `contents(config)`, what it reads besides the backbone and its own options: part -> hash of the
            content, for the run's name; see `Stage.contents`.
        trained_by: the stages whose optimiser steps it knows; empty: those that train on the items of its rows.
        draws: how it answers, "score" (the likeliest label) or "text" (what the model writes), or `(options, problem)`
            -> that; "" if it has a head. What an inference (`peftbench.inference`) draws from.
    """

    implementation: Callable[[Any, str, str], type | str] | type | str | None = None
    families: frozenset[str] = frozenset()
    options: type[FormulationConfig] = FormulationConfig
    uses: tuple[str, ...] = ()
    results_version: int | Mapping[str, int] = 1
    problems: frozenset[str] = PROBLEMS
    can_answer_untrained: bool = False
    class_scores: bool = False
    writes: Callable[[Any], bool] = lambda options: False
    stands_for: Callable[[str, int | str, str], str] | None = None
    settle: Callable[[Any], None] | None = None
    contents: Callable[[RunConfig], dict[str, str]] | None = None
    trained_by: tuple[str, ...] = ()
    draws: Callable[[Any, str], str] | str = ""

    def version_for(self, problem: str) -> int:
        """The results version for this kind of targets."""
        raised = self.results_version
        return raised if isinstance(raised, int) else raised.get(problem, 1)

    def formulation(self, cfg: FormulationConfig, family: str, problem: str) -> type[Formulation]:
        """The class that these options, this family of backbones and this kind of targets ask for; imports torch."""
        made: Any = self.implementation
        if callable(made) and not inspect.isclass(made):
            made = made(cfg, family, problem)
        return registry.imported(made)


def fingerprint(cfg: FormulationConfig, option: str, otherwise: str) -> None:
    """Put the absolute path of the user's file that an option names, and its SHA-256 (`OPTION_sha256`), there.

    Raises:
        UsageError: there is no such file (`otherwise` says what else there is), or it is not the one that the run began
            with.
    """
    given = str(getattr(cfg, option))
    path, key = Path(given).expanduser().resolve(), f"method.formulation.{option}={given}"
    if not path.is_file():
        raise UsageError(f"{key}: {otherwise}")
    digest = registry.sha256(path)
    if getattr(cfg, f"{option}_sha256") not in (None, digest):
        raise UsageError(f"{key}: was edited since this run began. Start it again.")
    setattr(cfg, option, str(path))
    setattr(cfg, f"{option}_sha256", digest)


def declaration(name: str) -> Declared:
    """Of a built-in formulation, or of a plug-in, which may be a declaration or the bare class.

    Raises:
        UsageError: there is no formulation of that name.
    """
    made = registry.get("formulation", name)
    if isinstance(made, Declared):
        return made
    return Declared(
        made,
        getattr(made, "families", frozenset()),
        can_answer_untrained=getattr(made, "can_answer_untrained", False),
        class_scores=hasattr(made, "logits") and hasattr(made, "loss_of"),
    )
