"""What a run is made of: stages, tricks, tuner, formulation, adapter and metrics, and which keys each of them looks at.

Free of torch. The name of a run follows from it: a key that no component uses decides no result, and a component whose
results change raises its `results_version`, which renames the runs that use it and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from peftbench.config import registry

INPUT = (
    "model",
    "trainer.max_length",
    "trainer.eval_batch_tokens",
    "trainer.precision",
    "trainer.attention",
    "trainer.device",
)
"""What decides the forward pass of a backbone, whatever is done with it."""
TRAINING = ("trainer", "method.lr", "method.constant_lr", "method.weight_decay", "protocol.select")
"""What decides a training by `peftbench.stages.learning`."""
RECIPE = "recipe"
"""The stage that makes data for those of the method, where a recipe is chosen."""


@dataclass(frozen=True)
class Component:
    """One part of a run.

    Attributes:
        kind: "backbone", "tuner", "formulation", "stage", "recipe", "trick", "inference", "loop", "protocol", "adapter"
            or "metric".
        name: as the config has it.
        uses: dotted keys and sections of the config that decide what it does, its own options among them. What every
            run depends on (the data, the draw, the seeds) is not said again.
        results_version: raised when the same keys would give other numbers.
        origin: of a plug-in, what tells its versions apart: the hash of its file, or distribution and version.
    """

    kind: str
    name: str
    uses: tuple[str, ...]
    results_version: int = 1
    origin: str = ""


class TaskChoices(NamedTuple):
    """What a task of a sequence brings along."""

    adapter: str
    metrics: tuple[str, ...]
    problem: str


class Choices(NamedTuple):
    """What of a config says which parts it has; the whole of a config takes a millisecond to look through."""

    needs_model: bool
    model: str
    family: str
    tuner: str
    formulation: str
    stages: tuple[str, ...]
    tricks: tuple[str, ...]
    adapter: str
    metrics: tuple[str, ...]
    problem: str
    protocol: str
    shots: int | str
    inference: str = ""
    tasks: tuple[TaskChoices, ...] = ()
    recipe: str | None = None


def choices(cfg: Any) -> Choices:
    """Of a `RunConfig`, or of the plain dictionary of one."""
    task = _at(cfg, "task")
    subset = _at(task, "subsets", str(_at(task, "subset"))) or {}
    adapter, metrics, problem = _of_task(task)
    shots = "full" if _at(task, "source_lang") else _at(cfg, "shots")
    return Choices(
        needs_model=_at(cfg, "method", "needs_model") is not False,
        model=str(_at(cfg, "model", "name")),
        family=str(_at(cfg, "model", "family")),
        tuner=str(_at(cfg, "method", "tuner", "name")),
        formulation=str(_at(cfg, "method", "formulation", "name")),
        stages=tuple(map(str, _at(cfg, "method", "stages") or ())),
        tricks=tuple(str(_at(own, "name") or label) for label, own in (_at(cfg, "method", "trick") or {}).items()),
        adapter=adapter,
        metrics=metrics,
        problem=problem,
        protocol=str(_at(cfg, "protocol", "name")),
        shots=shots if isinstance(shots, int) else str(shots),
        inference=str(_at(cfg, "method", "inference", "name") or ""),
        tasks=tuple(map(_of_task, (_at(subset, "tasks") or {}).values())),
        recipe=_at(cfg, "recipe", "name"),
    )


def _of_task(task: Any) -> TaskChoices:
    metrics = (_at(task, "main_metric"), *(_at(task, "metrics") or ()))
    subset = _at(task, "subsets", str(_at(task, "subset"))) or {}
    return TaskChoices(str(_at(task, "adapter")), tuple(map(str, metrics)), problem_of(task, subset))


def problem_of(task: Any, subset: Mapping[str, Any]) -> str:
    """The kind of a subset's targets (`peftbench.tasks.problems`): the one that has a key of the subset for itself,
    else what `task.problem` says."""
    for name in sorted(registry.built_in("problem")):
        if registry.get("problem", name).mark in subset:
            return name
    said = _at(task, "problem")
    return said if said in registry.built_in("problem") else "classification"


def _at(node: Any, *path: str) -> Any:
    """What stands there in dataclasses or dictionaries; None where nothing does."""
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else getattr(node, key, None)
    return node


def components(cfg: Any) -> list[Component]:
    """The parts of a run, in a fixed order.

    Args:
        cfg: a `RunConfig`, the plain dictionary of one, or its `Choices`.

    Raises:
        UsageError: the config names a stage that there is not.
    """
    return list(_components(cfg if isinstance(cfg, Choices) else choices(cfg)))


def _components(chosen: Choices) -> Iterator[Component]:
    for adapter, metrics, _ in (TaskChoices(chosen.adapter, chosen.metrics, chosen.problem), *chosen.tasks):
        yield _part("adapter", adapter, ADAPTER)
        yield from map(_metric, metrics)
    if chosen.needs_model:
        yield Component("backbone", chosen.model, INPUT)
        yield _tuner(chosen.tuner, ("method.tuner", "method.budget", "method.init_from"))
        for problem in dict.fromkeys([task.problem for task in chosen.tasks] or [chosen.problem]):
            yield _formulation(chosen._replace(problem=problem))
    stages = [stage_component(name) for name in stages_run(chosen)]
    yield _versioned(Component("protocol", chosen.protocol, ("protocol",)))
    if any("trainer" in stage.uses for stage in stages):
        yield _versioned(Component("loop", "loop", TRAINING))
    yield from stages
    if chosen.recipe is not None:
        yield _recipe(chosen.recipe)
    yield from map(_trick, chosen.tricks)
    if chosen.inference:
        yield _inference(chosen.inference)


def stages_run(chosen: Choices) -> tuple[str, ...]:
    """The stages of the method; on a sequence of tasks also the one that has them done for each task, and before all
    the one that makes the data of a recipe."""
    of_tasks = [stage_of_tasks()] if chosen.tasks else []
    return (*([RECIPE] if chosen.recipe is not None else []), *chosen.stages, *of_tasks)


@cache
def stage_of_tasks() -> str:
    """The stage that declares itself to be the one that has a method's own done for each of several tasks."""
    return next(name for name in sorted(registry.built_in("stage")) if registry.get("stage", name).of_tasks)


def _part(kind: str, name: Any, uses: tuple[str, ...]) -> Component:
    plugin = registry.is_plugin(kind, str(name))
    return Component(kind, str(name), uses, origin=registry.address(kind, str(name)).origin if plugin else "")


ADAPTER = ("task.name", "task.subset", "task.subsets", "task.fields", "task.lang", "task.text")

RESULTS_VERSIONS: dict[tuple[str, str], int] = {}
"""Of those that do not declare their own, as stages, tuners and formulations do, whose results have changed: the `loop`
and protocols (whose YAML has a version besides)."""


def _versioned(part: Component) -> Component:
    return replace(part, results_version=RESULTS_VERSIONS.get((part.kind, part.name), 1))


def _metric(name: str) -> Component:
    """One that is named by its code has the hash in its name."""
    uses = ("task.main_metric", "task.metrics")
    return Component("metric", name, uses) if ":" in name else _part("metric", name, uses)


def _tuner(name: str, own: tuple[str, ...]) -> Component:
    """The component that a tuner declares itself to be; of one that does not, where it comes from."""
    if not registry.is_declared("tuner", name):
        return _part("tuner", name, own)
    declared = registry.get("tuner", name)
    origin = registry.address("tuner", name).origin
    uses, version = getattr(declared, "uses", ()), getattr(declared, "results_version", 1)
    return Component("tuner", name, (*own, *uses), version, origin)


def _formulation(chosen: Choices) -> Component:
    """The component that a formulation declares itself to be, `auto` the one that it stands for; a plug-in is taken to
    read what any may read."""
    name = chosen.formulation
    if name not in registry.built_in("formulation"):
        return _part("formulation", name, ("method.formulation", "task.label_words"))
    declared = registry.get("formulation", name)
    uses = ("method.formulation", *declared.uses)
    if declared.stands_for is not None and chosen.family in declared.families:
        name = declared.stands_for(chosen.family, chosen.shots, chosen.problem)
        declared = registry.get("formulation", name)
    return Component("formulation", name, uses, declared.version_for(chosen.problem))


def _trick(name: str) -> Component:
    """The component that a trick declares itself to be."""
    trick, origin = registry.get("trick", name), registry.address("trick", name).origin
    return Component("trick", name, ("method.trick",), trick.results_version, origin)


def _inference(name: str) -> Component:
    """The component that an inference declares itself to be."""
    declared, origin = registry.get("inference", name), registry.address("inference", name).origin
    return Component("inference", name, ("method.inference", *declared.uses), declared.results_version, origin)


def _recipe(name: str) -> Component:
    """The component that a recipe declares itself to be."""
    recipe, origin = registry.get("recipe", name), registry.address("recipe", name).origin
    return Component("recipe", name, ("recipe",), recipe.results_version, origin)


def stage_component(name: str) -> Component:
    """The component that a stage declares itself to be."""
    stage, origin = registry.get("stage", name), registry.address("stage", name).origin
    section = (f"method.{stage.section}",) if stage.section else ()
    return Component("stage", name, (*section, *stage.uses), stage.results_version, origin)
