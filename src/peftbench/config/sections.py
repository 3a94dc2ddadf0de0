"""The checked sections of a config: keys, types and ranges against the dataclass behind each group."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftbench.config import registry, schema
from peftbench.config.doors import literal, shortened
from peftbench.config.families import with_family
from peftbench.config.metric_files import fingerprint as fingerprint_metric
from peftbench.config.tasks import adapter_of, check_task
from peftbench.errors import UsageError, did_you_mean

S = TypeVar("S")

CHOSEN_METRIC = "main_metric_chosen"
"""Says that `task.main_metric` was given with the command; it never gets into a config."""
GROUPS = {
    "model": schema.ModelConfig,
    "method": schema.MethodConfig,
    "task": schema.TaskConfig,
    "protocol": schema.ProtocolConfig,
    "trainer": schema.TrainerConfig,
    "tracking": schema.TrackingConfig,
    "search": schema.SearchConfig,
}


def dataclass_of(sort: str) -> type | None:
    """The dataclass of a section, called as "trainer", "task masakhanews", "method.tuner lora" or "method.pet"."""
    path, _, choice = sort.partition(" ")
    if path == "method":
        return schema.MethodConfig
    if path == "task":
        return adapter_of(choice).config if choice in registry.names("adapter") else schema.TaskConfig
    if path == "method.tuner":
        return tuner_options(choice) if choice in registry.built_in("tuner") else None
    if path == "method.inference":
        return registry.get("inference", choice).options if choice in registry.built_in("inference") else None
    if path == "method.formulation":
        return formulation_options(choice) if choice in registry.names("formulation") else schema.FormulationConfig
    if path == "recipe":
        return registry.get("recipe", choice).options if choice in registry.built_in("recipe") else schema.RecipeConfig
    if path in GROUPS:
        return GROUPS[path]
    stages = (registry.get("stage", name) for name in registry.built_in("stage"))
    return next((stage.options for stage in stages if f"method.{stage.section}" == path), None)


def build_section(group: str, plain: dict[str, Any]) -> Any:
    """The checked section of one group, from plain values."""
    if group == "method":
        return build_method(plain)
    if group == "task":
        return build_task(plain)
    if group == "model":
        plain = with_family(plain)
    if group == "recipe":
        name = str(plain.get("name"))
        return build(registry.get("recipe", name).options, {**plain, "name": name}, "recipe")
    return build(GROUPS[group], plain, group)


def build_task(plain: dict[str, Any]) -> schema.TaskConfig:
    """The `task` section, by the dataclass that its adapter declares."""
    adapter = adapter_of(str(plain.get("adapter")))
    plain = with_chosen_metric(plain)
    check_task(plain)
    plain = with_metric_files(plain)
    return build(adapter.config, adapter.settle(plain) if adapter.settle else plain, "task")


def with_chosen_metric(plain: dict[str, Any]) -> dict[str, Any]:
    """The task with the main metric that a command gives (`peftbench.config.load.opened`), also where the subset has
    one of its own."""
    chosen, kept = plain.get(CHOSEN_METRIC), {k: v for k, v in plain.items() if k != CHOSEN_METRIC}
    subsets = kept.get("subsets") or {}
    name = kept.get("subset")
    own = (subsets.get(name) if isinstance(subsets, dict) and isinstance(name, str) else None) or {}
    if chosen and "main_metric" in own:
        kept["subsets"] = {**subsets, name: {**own, "main_metric": kept["main_metric"]}}
    return kept


def with_metric_files(plain: dict[str, Any]) -> dict[str, Any]:
    """The task with the hash of the code behind each metric of the user's own, also where a subset names some."""
    hashed = dict(plain)
    if plain.get("metrics"):
        hashed["metrics"] = [fingerprint_metric(metric) for metric in plain["metrics"]]
    if any("metrics" in (subset or {}) for subset in (plain.get("subsets") or {}).values()):
        hashed["subsets"] = {
            name: {**subset, "metrics": [fingerprint_metric(metric) for metric in subset["metrics"]]}
            if subset and "metrics" in subset
            else subset
            for name, subset in plain["subsets"].items()
        }
    return hashed


def mapping(value: Any, key: str) -> dict[str, Any]:
    """The keys and values of a section. Raises UsageError if something else was put in its place."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        group = key.replace(".", "/")
        raise UsageError(
            f"{key}={shortened(value)}: is a section of keys. To choose its file: {group}={shortened(value)}."
        )
    return value


def sequence(value: Any, key: str) -> Sequence[Any]:
    """The members of a list. Raises UsageError if something else was put in its place."""
    if value is not None and not isinstance(value, (list, tuple)):
        raise UsageError(f"{key}={shortened(value)}: must be a list: {key}=[{shortened(value)}].")
    return value or ()


PARTS = ("tuner", "formulation", "trick", "inference")
"""Sections of a method whose classes depend on what is chosen there."""


def build_method(plain: dict[str, Any]) -> schema.MethodConfig:
    """The `method` section; tuner and formulation have schemas of their own, and a user's tuner file is hashed."""
    formulation = mapping(plain.get("formulation"), "method.formulation")
    stages = tuple(map(str, sequence(plain.get("stages"), "method.stages")))
    unused = stage_sections() - stage_sections(stages)
    check_sections_of_other_stages(plain, unused)
    common = {k: v for k, v in plain.items() if k not in PARTS and k not in unused}
    method = build(method_class(stages), {**common, "formulation": {"name": "auto"}}, "method")
    method.trick = build_tricks(mapping(plain.get("trick"), "method.trick"), method.name, stages)
    method.formulation = build_formulation(method, {"name": "auto", **formulation})
    tuner_plain = mapping(plain.get("tuner"), "method.tuner")
    name = str(tuner_plain.get("name"))
    method.tuner = build(tuner_options(name), tuner_plain, "method.tuner")
    if name in registry.built_in("tuner") and (settle := registry.get("tuner", name).settle):
        settle(method.tuner)
    method.inference = build_inference(mapping(plain.get("inference"), "method.inference"))
    for stage in (registry.get("stage", name) for name in stages):
        if stage.settle:
            stage.settle(method.options(stage.section))
    return method


def build_tricks(plain: dict[str, Any], method: str, stages: Sequence[str]) -> dict[str, schema.TrickConfig]:
    """The `method.trick` section: label -> options, each by the dataclass that the trick declares. One that is null, or
    has no effect at the strength that it is given, is left out: the run is the one without it, and has its name.

    Raises:
        UsageError: there is no such trick, one stands there twice, or no stage of the method takes tricks.
    """
    found: dict[str, schema.TrickConfig] = {}
    for label, given in sorted(plain.items()):
        if given is None:
            continue
        key = f"method.trick.{label}"
        section = mapping(given, key)
        name = str(section.get("name", label))
        trick = registry.get("trick", name, key="method.trick" if name == label else f"{key}.name")
        options = build(trick.options, {**section, "name": name}, key)
        if not trick.neutral(options):
            found[str(label)] = options
    twice = sorted(name for name, count in Counter(options.name for options in found.values()).items() if count > 1)
    if twice:
        raise UsageError(f"method.trick: `{twice[0]}` stands there twice; take one of the two out.")
    if found and not any(registry.get("stage", name).takes_tricks for name in stages):
        takers = [name for name in sorted(registry.built_in("stage")) if registry.get("stage", name).takes_tricks]
        raise UsageError(
            f"method.trick.{next(iter(found))}: tricks belong to the stage {' or '.join(takers)}, and method={method} "
            f"has {', '.join(stages)}. Choose a method with that stage, such as method=lora, or take the trick out."
        )
    return found


def build_inference(plain: dict[str, Any]) -> schema.InferenceConfig | None:
    """The `method.inference` section, by the dataclass that the inference declares; None where it changes nothing.

    Raises:
        UsageError: there is no such inference, or its options need what is not there.
    """
    declared = registry.get("inference", str(plain.get("name", "plain")))
    options: schema.InferenceConfig = build(declared.options, {"name": "plain", **plain}, "method.inference")
    if declared.neutral(options):
        return None
    if declared.settle:
        declared.settle(options)
    return options


def build_formulation(method: schema.MethodConfig, plain: dict[str, Any]) -> schema.FormulationConfig:
    """The `method.formulation` section, by the dataclass that the formulation declares."""
    name = str(plain["name"])
    options = formulation_options(name)
    check_keys_of_other_formulations(method, name, plain, options)
    made = build(options, plain, "method.formulation")
    if not registry.is_plugin("formulation", name) and (settle := registry.get("formulation", name).settle):
        settle(made)
    return made


def formulation_options(name: str) -> type[schema.FormulationConfig]:
    """The dataclass of the formulation of that name; of a plug-in, which is not imported for it, one with `options`.

    Raises:
        UsageError: there is none.
    """
    if registry.is_plugin("formulation", name):
        return schema.PluginFormulationConfig
    options: type[schema.FormulationConfig] = registry.get("formulation", name).options
    return options


def tuner_options(name: str) -> type[schema.TunerConfig]:
    """The dataclass of the tuner of that name. Raises UsageError if there is none."""
    if registry.is_plugin("tuner", name):
        return schema.PluginTunerConfig
    options: type[schema.TunerConfig] = registry.get("tuner", name).options
    return options


@functools.cache
def method_class(stages: tuple[str, ...]) -> type[schema.MethodConfig]:
    """`MethodConfig` with a field for each section of options that the stages declare.

    Raises:
        UsageError: a stage is not there, or two of them give one section different options.
    """
    declared: dict[str, type] = {}
    for name in stages:
        stage = registry.get("stage", name)
        if stage.options is None:
            continue
        if declared.setdefault(stage.section, stage.options) is not stage.options:
            raise UsageError(f"method.stages: `{name}` and another stage both have options in method.{stage.section}.")
    sections = [(section, options, dataclasses.field(default_factory=options)) for section, options in declared.items()]
    return dataclasses.make_dataclass("MethodConfig", sections, bases=(schema.MethodConfig,))


def check_sections_of_other_stages(plain: dict[str, Any], unused: frozenset[str]) -> None:
    """Raises UsageError if a section of a stage that the method does not have was put in by hand.

    A whole one was left by the method's YAML when a user chose other stages, or is in a record of 0.1.0, which has all
    of them; it says nothing.
    """
    for name in sorted(registry.built_in("stage")):
        stage = registry.get("stage", name)
        given = plain.get(stage.section) or {}
        if stage.section in unused and given and given.keys() < {*field_names(stage.options)}:
            raise UsageError(
                f"method.{stage.section}.{next(iter(given))}: only the stage `{name}` has it, and "
                f"method={plain.get('name')} has {', '.join(plain.get('stages') or ())}. Choose a method with that "
                "stage, or add it to method.stages."
            )


@functools.cache
def stage_sections(stages: tuple[str, ...] | None = None) -> frozenset[str]:
    """Sections of `method` that the stages declare; None: all stages that are built in."""
    names = registry.built_in("stage") if stages is None else stages
    return frozenset(stage.section for name in names if (stage := registry.get("stage", name)).section)


def check_keys_of_other_formulations(
    method: schema.MethodConfig, chosen: str, section: dict[str, Any], options: type[schema.FormulationConfig]
) -> None:
    """Raises UsageError if the section has keys that only another formulation knows: left by the method's YAML when a
    user chooses another formulation."""
    for name in sorted(registry.built_in("formulation")):
        others = {*field_names(formulation_options(name))} - {*field_names(options)}
        if foreign := [key for key in section if key in others]:
            keys = [f"method.formulation.{key}" for key in foreign]
            raise UsageError(
                f"method/formulation={chosen}: only `{name}` has {', '.join(keys)}. Use "
                f"method/formulation={name}, or take out what method={method.name} sets: "
                + " ".join(f"'~{key}'" for key in keys)
            )


def build(schema_class: type[S], section: dict[str, Any], where: str) -> S:
    """An instance of `schema_class` from plain values: keys, types and ranges checked.

    Of configs made one after the other most sections are alike, and to check one costs fifty times what a copy does.
    """
    known = (schema_class, repr(section))
    if known not in _built:
        if len(_built) == MOST_BUILT:
            _built.clear()
        _built[known] = _checked(schema_class, section, where)
    return cast(S, copy.deepcopy(_built[known]))


_built: dict[tuple[type, str], Any] = {}
MOST_BUILT = 1000
"""Sections remembered; a long search sets other values in each of its trials."""


def _checked(schema_class: type[S], section: dict[str, Any], where: str) -> S:
    fields = field_names(schema_class)
    for key in section:
        if key not in fields:
            raise UsageError(f"{where}.{key}: no such key. {did_you_mean(str(key), fields)}")
    try:
        instance = cast(
            S, OmegaConf.to_object(OmegaConf.merge(_defaults_of(cast(Hashable, schema_class)), literal(section)))
        )
    except OmegaConfBaseException as error:
        key = ".".join(p for p in (where, str(getattr(error, "full_key", "") or "")) if p)
        raise wrong_type(key, error) from None
    check_ranges(instance, where)
    return instance


@functools.lru_cache(maxsize=500)
def _defaults_of(schema_class: Any) -> Any:
    """The dataclass as OmegaConf has it; `OmegaConf.merge` works on a copy."""
    return OmegaConf.structured(schema_class)


BOUNDS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("ge", lambda value, bound: value >= bound, "at least"),
    ("gt", lambda value, bound: value > bound, "more than"),
    ("le", lambda value, bound: value <= bound, "at most"),
)
LARGEST_WHOLE = 2**53
"""Beyond it JSON readers round, and libraries count no further."""


def check_ranges(instance: Any, where: str) -> None:
    """Compare every value of a dataclass instance, nested ones included, with the range in its field's metadata.

    A number must be finite wherever it stands. Of a list or a dictionary each member is checked against the range.

    Raises:
        UsageError: naming the key of the first value that is outside.
    """
    for f in dataclasses.fields(instance):
        value, key = getattr(instance, f.name), f"{where}.{f.name}"
        if dataclasses.is_dataclass(value):
            check_ranges(value, key)
            continue
        choices = f.metadata.get("choices")
        if choices is not None and value is not None and value not in choices:
            raise UsageError(
                f"{key}={shortened(value)}: not a valid choice. {did_you_mean(str(value), map(str, choices))}"
            )
        if (pattern := f.metadata.get("pattern")) and value is not None and not re.fullmatch(pattern, str(value)):
            raise UsageError(f"{key}={shortened(value)}: use {f.metadata['wanted']}.")
        if f.metadata.get("filled") and not value:
            raise UsageError(f"{key}={value}: must not be empty. {f.metadata['filled']}")
        for place, number in _numbers(value, key):
            check_number(place, number, f.metadata)


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int | float]]:
    """Dotted key and number of every number in a value."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _numbers(member, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from _numbers(member, key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value


def check_number(key: str, value: int | float, metadata: Mapping[str, Any]) -> None:
    """Raises UsageError unless the number is finite and within the bounds `ge`, `gt` and `le` of `metadata`."""
    if not math.isfinite(value):
        raise UsageError(f"{key}={value}: must be a finite number.")
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise UsageError(f"{key}={shortened(value)}: must be at most {LARGEST_WHOLE}.")
    for name, holds, words in BOUNDS:
        bound = metadata.get(name)
        if bound is not None and not holds(value, bound):
            raise UsageError(f"{key}={value}: must be {words} {bound}.")


_WANTED = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
_CONVERSION = re.compile(r"Value '(?P<value>.*)' of type '\w+' could not be converted to (?P<kind>\w+)", re.DOTALL)


def wrong_type(key: str, error: Exception) -> UsageError:
    """OmegaConf's word on a value of the wrong type, in ours."""
    text = str(error)
    found = _CONVERSION.search(text)
    if found is None or found["kind"] not in _WANTED:
        if "is not Optional" in text:
            return UsageError(f"{key}=null: must have a value.")
        if "not a valid bool" in text:
            return UsageError(f"{key}: {first_line(error)}: must be true or false.")
        if "missing mandatory value" in text:
            return UsageError(f"{key}: has no value and needs one.")
        if "is not a ListConfig" in text:
            return UsageError(f"{key}: must be a list, as in {key}=[a,b].")
        if "to string" in text:
            return UsageError(f"{key}: must be a text, not a list or a mapping.")
        return UsageError(f"{key}: {first_line(error)}")
    return UsageError(f"{key}={shortened(found['value'])}: must be {_WANTED[found['kind']]}.")


def field_names(schema_class: type) -> list[str]:
    """The keys of a section, in the order of its dataclass."""
    return [f.name for f in dataclasses.fields(schema_class)]


def first_line(error: BaseException | None) -> str:
    """The first non-empty line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
