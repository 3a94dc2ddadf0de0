"""What a run is made of: stages, tricks, tuner, formulation, adapter and metrics, and which keys each of them looks at.

Free of torch. The name of a run follows from it: a key that no component uses decides no result, and a component whose
results change raises its `results_version`, which renames the runs that use it and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Component:
    """One part of a run.

    Attributes:
        kind: "backbone", "tuner", "formulation", "stage", "trick", "loop", "protocol", "adapter" or "metric".
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


def choices(cfg: Any) -> Choices:
    """Of a `RunConfig`, or of the plain dictionary of one."""
    task = _at(cfg, "task")
    shots = "full" if _at(task, "source_lang") else _at(cfg, "shots")
    return Choices(
        needs_model=_at(cfg, "method", "needs_model") is not False,
        model=str(_at(cfg, "model", "name")),
        family=str(_at(cfg, "model", "family")),
        tuner=str(_at(cfg, "method", "tuner", "name")),
        formulation=str(_at(cfg, "method", "formulation", "name")),
        stages=tuple(map(str, _at(cfg, "method", "stages") or ())),
        tricks=tuple(str(_at(own, "name") or label) for label, own in (_at(cfg, "method", "trick") or {}).items()),
        adapter=str(_at(task, "adapter")),
        metrics=tuple(map(str, (_at(task, "main_metric"), *(_at(task, "metrics") or ())))),
        problem=problem_of(task, _at(task, "subsets", str(_at(task, "subset"))) or {}),
        protocol=str(_at(cfg, "protocol", "name")),
        shots=shots if isinstance(shots, int) else str(shots),
    )


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
    yield _part("adapter", chosen.adapter, ADAPTER)
    for name in chosen.metrics:
        yield _metric(name)
    if chosen.needs_model:
        yield Component("backbone", chosen.model, INPUT)
        yield _tuner(chosen.tuner, ("method.tuner", "method.budget", "method.init_from"))
        yield _formulation(chosen)
    stages = [stage_component(name) for name in chosen.stages]
    yield _versioned(Component("protocol", chosen.protocol, ("protocol",)))
    if any("trainer" in stage.uses for stage in stages):
        yield _versioned(Component("loop", "loop", TRAINING))
    yield from stages
    yield from map(_trick, chosen.tricks)


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


def stage_component(name: str) -> Component:
    """The component that a stage declares itself to be."""
    stage, origin = registry.get("stage", name), registry.address("stage", name).origin
    section = (f"method.{stage.section}",) if stage.section else ()
    return Component("stage", name, (*section, *stage.uses), stage.results_version, origin)
