"""The recipe `subtasks`: a domain's texts as sets of small tasks, each with instructions of its own. Declaration."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import number, packaged
from peftbench.stages.recipe.base import PairsConfig, Recipe

PACKAGED = "packaged"


@packaged("recipe/subtasks")
@dataclass
class SubtaskOptions(PairsConfig):
    """`recipe` of `+recipe=subtasks`."""

    subtasks: str = MISSING
    descriptions: str | None = MISSING
    wordings: int = number(ge=0)
    encoder: str = MISSING
    per_text: int = number(ge=1)

    def models(self) -> list[str]:
        return [self.encoder] if self.arm == "made" and self.descriptions is not None and self.wordings else []


def files(options: SubtaskOptions) -> dict[str, str]:
    """The user's sub-tasks and descriptions."""
    own = {"subtasks": options.subtasks, "descriptions": options.descriptions}
    return {part: path for part, path in own.items() if path is not None and path != PACKAGED}


RECIPE = Recipe(
    SubtaskOptions,
    "peftbench.stages.recipe.subtasks.pairs:made",
    "pairs",
    files,
    "peftbench.stages.recipe.subtasks.files:check",
)
