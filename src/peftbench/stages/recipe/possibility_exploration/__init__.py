"""The recipe `possibility_exploration`: a model learns to write several different texts of a class. Declaration."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import RecipeConfig, number, packaged
from peftbench.stages.recipe.base import Recipe


@packaged("recipe/possibility_exploration")
@dataclass
class PossibilityOptions(RecipeConfig):
    """`recipe` of `+recipe=possibility_exploration`."""

    model: str = MISSING
    per_class: int = number(ge=1)
    numbers: int = number(ge=0)
    unlikelihood: float = number(ge=0)
    steps: int = number(ge=1)
    lr: float = number(gt=0)
    rank: int = number(ge=1)
    written_tokens: int = number(ge=4)
    temperature: float = number(gt=0)
    top_p: float = number(gt=0, le=1)

    def models(self) -> list[str]:
        return [self.model]


RECIPE = Recipe(PossibilityOptions, "peftbench.stages.recipe.possibility_exploration.texts:made", "rows")
