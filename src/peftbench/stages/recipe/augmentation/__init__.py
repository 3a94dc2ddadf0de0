"""The recipe `augmentation`: texts of each class, written by a causal model that is shown some. Declaration."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import RecipeConfig, number, packaged
from peftbench.stages.recipe.base import Recipe


@packaged("recipe/augmentation")
@dataclass
class AugmentationOptions(RecipeConfig):
    """`recipe` of `+recipe=augmentation`."""

    model: str = MISSING
    per_class: int = number(ge=1)
    shown: int = number(ge=1)
    form: str = MISSING
    written_tokens: int = number(ge=4)
    temperature: float = number(gt=0)
    top_p: float = number(gt=0, le=1)

    def models(self) -> list[str]:
        return [self.model]


RECIPE = Recipe(AugmentationOptions, "peftbench.stages.recipe.augmentation.texts:made", "rows")
