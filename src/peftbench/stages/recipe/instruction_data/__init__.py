"""The recipe `instruction_data`: pairs of a filled template and an answer quoted from a document. Declaration."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import number, packaged
from peftbench.stages.recipe.base import PairsConfig, Recipe

PACKAGED = "packaged"


@packaged("recipe/instruction_data")
@dataclass
class InstructionOptions(PairsConfig):
    """`recipe` of `+recipe=instruction_data`."""

    templates: str = MISSING
    encoder: str = MISSING
    views: int = number(ge=1)
    width: float = number(gt=0)
    per_view: int = number(ge=1)
    quoted: float = number(ge=0, le=1)

    def models(self) -> list[str]:
        return [self.encoder] if self.arm == "made" else []


def files(options: InstructionOptions) -> dict[str, str]:
    """The user's templates."""
    return {} if options.templates == PACKAGED else {"templates": options.templates}


RECIPE = Recipe(
    InstructionOptions,
    "peftbench.stages.recipe.instruction_data.pairs:made",
    "pairs",
    files,
    "peftbench.stages.recipe.instruction_data.templates:check",
)
