"""What a run is made of: its stages, tuner, formulation, adapter and metrics, and which keys each of them looks at.

Free of torch. The name of a run follows from it: a key that no component uses decides no result, and a component whose
results change raises its `results_version`, which renames the runs that use it and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
        kind: "backbone", "tuner", "formulation", "stage", "loop", "protocol", "adapter" or "metric".
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


def components(cfg: Any) -> list[Component]:
    """The parts of a run, in a fixed order.

    Args:
        cfg: a `RunConfig`, or the plain dictionary of one.

    Raises:
        UsageError: the config names a stage that there is not.
    """
    return list(_components(cfg if isinstance(cfg, Mapping) else _choices(cfg)))


def _choices(cfg: Any) -> dict[str, Any]:
    """What of a `RunConfig` says which parts it has, as plain data; the whole of it takes a millisecond."""
    method, task = cfg.method, cfg.task
    parts = {key: {"name": getattr(getattr(method, key), "name", None)} for key in ("tuner", "formulation")}
    return {
        "model": {"name": cfg.model.name},
        "method": {**parts, "needs_model": method.needs_model, "stages": method.stages},
        "task": {"adapter": task.adapter, "main_metric": task.main_metric, "metrics": task.metrics},
        "protocol": {"name": cfg.protocol.name},
    }


def _components(plain: Mapping[str, Any]) -> Iterator[Component]:
    method, task = plain.get("method") or {}, plain.get("task") or {}
    yield _part("adapter", task.get("adapter"), ADAPTER)
    for name in [task.get("main_metric"), *(task.get("metrics") or ())]:
        yield _metric(str(name))
    if method.get("needs_model", True):
        yield Component("backbone", str((plain.get("model") or {}).get("name")), INPUT)
        tuner = method.get("tuner") or {}
        own = ("method.tuner", "method.budget", "method.init_from")
        yield _tuner(str(tuner.get("name")), own)
        yield _formulation(str((method.get("formulation") or {}).get("name")))
    stages = [stage_component(str(name)) for name in method.get("stages") or ()]
    yield _versioned(Component("protocol", str((plain.get("protocol") or {}).get("name")), ("protocol",)))
    if any("trainer" in stage.uses for stage in stages):
        yield _versioned(Component("loop", "loop", TRAINING))
    yield from stages


def _part(kind: str, name: Any, uses: tuple[str, ...]) -> Component:
    plugin = registry.is_plugin(kind, str(name))
    return Component(kind, str(name), uses, origin=registry.address(kind, str(name)).origin if plugin else "")


ADAPTER = ("task.name", "task.subset", "task.subsets", "task.fields", "task.lang", "task.text")

RESULTS_VERSIONS: dict[tuple[str, str], int] = {}
"""Of components that do not declare their own, as stages, tuners and formulations do, whose results have changed: the
`loop`, protocols (whose YAML has a version besides), adapters and metrics."""


def _versioned(part: Component) -> Component:
    return replace(part, results_version=RESULTS_VERSIONS.get((part.kind, part.name), 1))


def _metric(name: str) -> Component:
    """One that is named by its code has the hash in its name."""
    uses = ("task.main_metric", "task.metrics")
    return Component("metric", name, uses) if ":" in name else _part("metric", name, uses)


def _tuner(name: str, own: tuple[str, ...]) -> Component:
    """The component that a built-in tuner declares itself to be; of one from outside, where it comes from."""
    if name not in registry.built_in("tuner"):
        return _part("tuner", name, own)
    declared = registry.get("tuner", name)
    return Component("tuner", name, (*own, *declared.uses), declared.results_version)


def _formulation(name: str) -> Component:
    """The component that a formulation declares itself to be; a plug-in is taken to read what any may read."""
    if name not in registry.built_in("formulation"):
        return _part("formulation", name, ("method.formulation", "task.label_words"))
    declared = registry.get("formulation", name)
    return Component("formulation", name, ("method.formulation", *declared.uses), declared.results_version)


def stage_component(name: str) -> Component:
    """The component that a stage declares itself to be."""
    stage, origin = registry.get("stage", name), registry.address("stage", name).origin
    section = (f"method.{stage.section}",) if stage.section else ()
    return Component("stage", name, (*section, *stage.uses), stage.results_version, origin)
