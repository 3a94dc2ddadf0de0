"""Data recipes: what is made of a run's data before the method's stages see them (`+recipe=NAME`).

A recipe is a module of this folder that declares itself by the constant `RECIPE` (`base.Recipe`), or a plug-in. What it
makes is checked against every evaluation text and kept in the run's folder. The stage `recipe` does it, in front of the
method's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.config import compose, registry
from peftbench.config.components import RECIPE, TRAINING, choices
from peftbench.errors import UsageError
from peftbench.models.content import content_id
from peftbench.stages.base import Stage
from peftbench.stages.recipe.base import PairsConfig, Recipe

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig


def recipe_of(run: RunConfig) -> Recipe:
    """The recipe of a run that has one."""
    assert run.recipe is not None
    found: Recipe = registry.get("recipe", run.recipe.name)
    return found


def fits(run: RunConfig) -> None:
    """Whether a recipe goes together with the rest of a config, as far as that is known without data or weights.

    Raises:
        UsageError: there is nothing that it could be made for, or an arm has nothing to compare.
    """
    if run.recipe is None or RECIPE in run.method.stages:
        raise UsageError("method.stages: `recipe` is no stage to be listed; a recipe is chosen by `+recipe=NAME`.")
    options, recipe = run.recipe, recipe_of(run)
    key, arm = f"recipe={options.name}", f"recipe.arm={options.arm}"
    for part, path in recipe.files(options).items():
        if not Path(path).is_file():
            raise UsageError(f"recipe.{part}={path}: no such file.")
    if recipe.check is not None:
        registry.imported(recipe.check)(options)
    if choices(run).tasks or choices(run).problem == "mixture":
        raise UsageError(f"{key}: is made for one task at a time, and task={run.task.name} has several.")
    if not run.method.needs_model:
        raise UsageError(f"{key}: method={run.method.name} has no backbone. Use a method that trains one.")
    if run.trainer.devices > 1:
        raise UsageError(f"trainer.devices={run.trainer.devices}: a recipe is made by one process. Use 1.")
    if recipe.makes == "rows":
        if choices(run).problem != "classification":
            raise UsageError(
                f"{key}: makes texts for labels, and the targets of task={run.task.name} are none. Use a "
                "classification task, or recipe=instruction_data."
            )
        if run.labelled == 0:
            raise UsageError(
                f"{key}: makes more of the labelled rows, and shots=0 draws none. Give shots of 1 and more."
            )
        if options.arm == "texts":
            raise UsageError(f"{arm}: {key} makes labelled rows, and plain texts have no label. Use made or repeats.")
        if options.arm == "repeats" and options.tokens is None:
            raise UsageError(f"{arm}: without recipe.tokens this is the run without a recipe. Give recipe.tokens=N.")
        return
    if options.tokens is None:
        raise UsageError(f"{key}: recipe.tokens=null: the training on what is made needs a length in tokens.")
    if run.model.family == "encoder":
        raise UsageError(
            f"{key}: trains a language model on instructions with answers, and model={run.model.name} is an encoder. "
            "Use a causal model or an encoder-decoder, or recipe=augmentation."
        )
    if options.arm == "repeats" and run.labelled == 0:
        raise UsageError(f"{arm}: repeats the drawn rows, and shots=0 draws none.")
    if options.arm == "texts" and run.model.family != "causal":
        raise UsageError(
            f"{arm}: reads plain texts token by token, which a causal model does. Use arm=made or repeats."
        )
    first = registry.get("stage", run.method.stages[0])
    if first.trains and not first.sequential:
        raise UsageError(
            f"{key}: trains the model first, and the stage {run.method.stages[0]} of method={run.method.name} starts "
            "anew. Use a method whose first stage is supervised, or `'method.stages=[none]'`."
        )


def contents(run: RunConfig, data_dir: Path | None) -> dict[str, str]:
    """For the run's name: the weights of the models that make data, and the user's files."""
    options = run.recipe
    if options is None or options.arm == "repeats":
        return {}
    found = {f"recipe {name}": content_id(compose([f"model={name}"]).model) for name in options.models()}
    files = recipe_of(run).files(options).items()
    return found | {f"recipe {part}": f"sha256:{registry.sha256(Path(path))}" for part, path in files}


STAGE = Stage(
    run="peftbench.stages.recipe.kitchen:recipe",
    uses=("recipe", *TRAINING),
    fits=fits,
    contents=contents,
    check="peftbench.stages.recipe.kitchen:check",
    several_processes=False,
)

__all__ = ["PairsConfig", "Recipe", "recipe_of"]
