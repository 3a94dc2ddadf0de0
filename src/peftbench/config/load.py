"""Compose with Hydra, check against the schema, and say what is wrong in one message."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftbench.config import registry, schema
from peftbench.config.catalogue import names
from peftbench.config.components import choices, components, stages_run
from peftbench.config.composition import compose_by_hydra
from peftbench.config.doors import check_override, shortened
from peftbench.config.hydra_source import ConfigFiles, PackagedSource, UserSource
from peftbench.config.sections import CHOSEN_METRIC, GROUPS, build_section, field_names, first_line, mapping
from peftbench.config.space import rate_decades, read_space
from peftbench.config.tasks import adapter_of
from peftbench.errors import UsageError, did_you_mean
from peftbench.files import check_place

for plugin in (ConfigFiles, PackagedSource, UserSource):
    Plugins.instance().register(plugin)

OPEN = re.compile(r"search\.space\.|method\.space\.|method\.tuner\.options\.")
"""Sections to which keys may be added."""
_FIXED = re.compile(r"\+{0,2}(model|protocol|trainer|tracking)\.(\w+)")
"""A key of a section whose keys do not depend on what is chosen."""
_MAIN_METRIC = re.compile(r"(?:\+\+)?task\.main_metric=(\w+)")
_TRICK = re.compile(r"method[/.]trick\b")
_SEVERAL = "several as `'+method/trick=[adversarial,label_smoothing]'`"
_SWEEP = re.compile(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?: requires --multirun)?$", re.M)


def compose(overrides: Sequence[str] = ()) -> schema.RunConfig:
    """The checked config of one run, exactly as the command line would make it.

    Raises:
        UsageError: an override names an unknown key or choice, or a value has the wrong type or range.
    """
    return to_run_config(compose_raw(overrides))


def compose_raw(overrides: Sequence[str]) -> DictConfig:
    """Hydra's composition with its errors translated; not yet checked against the schema.

    Raises:
        UsageError: the overrides, or the user's files that they name, cannot be composed.
    """
    check_overrides(overrides)
    try:
        return compose_by_hydra([for_one_run(override) for override in overrides])
    except UsageError:
        raise
    except Exception as error:  # nothing but Hydra runs in there, on what the user wrote
        raise explain(error, overrides) from None


def check_overrides(overrides: Sequence[str]) -> None:
    """Raises UsageError if an override sets what is not open to a command, has no key, or has one that no file can have
    (nothing is composed to know that)."""
    for override in overrides:
        check_override(override)
        if not override.lstrip("+~").partition("=")[0]:
            raise UsageError(f"{shortened(override) or 'an empty word'}: cannot be read as key=value.")
        if (found := _FIXED.match(override)) and found[2] not in (known := field_names(GROUPS[found[1]])):
            key, choices = f"{found[1]}.{found[2]}", [f"{found[1]}.{name}" for name in sorted(known)]
            raise UsageError(f"{shortened(key)}: no such key. {did_you_mean(key[:100], choices)}")


def opened(override: str) -> str:
    """An override as Hydra is to take it: a key of a task may be a new one, since the schema knows which there are.

    >>> opened("task.label_words.pos=great"), opened("trainer.steps=3")
    ('++task.label_words.pos=great', 'trainer.steps=3')
    """
    return f"++{override}" if override.startswith("task.") else override


def opened_for_sweep(overrides: Sequence[str]) -> list[str]:
    """`opened`, of a sweep: where a file is swept, Hydra first composes without any of its values, and would miss the
    keys that they have. The jobs are checked one by one.

    >>> opened_for_sweep(["method/formulation=generate,head", "method.formulation.answer_tokens=8", "seed=1"])
    ['method/formulation=generate,head', '++method.formulation.answer_tokens=8', 'seed=1']
    >>> opened_for_sweep(["+recipe=subtasks,augmentation", "recipe.tokens=300"])
    ['+recipe=subtasks,augmentation', '++recipe.tokens=300']
    """
    pairs = [override.lstrip("+").partition("=") for override in overrides]
    swept = {key.replace("/", ".") for key, _, value in pairs if "." not in key and "," in value}
    inside = tuple(f"{section}." for section in swept)
    return [f"++{o}" if inside and o.startswith(inside) else opened(o) for o in overrides]


def for_one_run(override: str) -> str:
    """`opened`, of a command for one run: the main metric that it gives wins over a subset's own.

    >>> for_one_run("task.main_metric=mcc")
    '++task={main_metric: mcc, main_metric_chosen: true}'
    """
    chosen = _MAIN_METRIC.fullmatch(override)
    return f"++task={{main_metric: {chosen[1]}, {CHOSEN_METRIC}: true}}" if chosen else opened(override)


def to_run_config(cfg: DictConfig) -> schema.RunConfig:
    """Check a composed config and turn it into dataclass instances.

    Raises:
        UsageError: naming the key, what was found and what would be valid.
    """
    return from_plain({k: v for k, v in resolve(cfg).items() if k != "hydra"})


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Plain values of a composed config, or of a part of one, with what refers to other keys filled in.

    Raises:
        UsageError: a value is missing, or refers to a key that is not there.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        if missing:
            raise UsageError(f"{missing[1]}: has no value and needs one; give {missing[1]}=VALUE.") from None
        raise UsageError(f"{getattr(error, 'full_key', '') or 'config'}: {shortened(first_line(error), 300)}") from None
    if not isinstance(plain, dict):
        raise UsageError("the config is not a mapping of keys to values")
    return {str(k): v for k, v in plain.items()}


def from_plain(
    plain: dict[str, Any], section: Callable[[str, dict[str, Any]], Any] = build_section
) -> schema.RunConfig:
    """Like `to_run_config`, from the plain dictionary that a record or a worker's file holds.

    `section` makes each group's part; whoever makes many configs may remember those that do not change.
    """
    parts = {group: section(group, mapping(plain.get(group), group)) for group in GROUPS}
    if plain.get("recipe"):
        parts["recipe"] = section("recipe", mapping(plain["recipe"], "recipe"))
    top = {k: v for k, v in plain.items() if k not in (*GROUPS, "recipe")}
    for key in top:
        if key not in {f.name for f in dataclasses.fields(schema.RunConfig)}:
            raise UsageError(f"{key}: no such key. {did_you_mean(key, field_names(schema.RunConfig))}")
    run = schema.RunConfig(**parts, **top)
    if run.search.name != "none" and run.search.rates == "decades":  # spelled out while the rates are those given
        run.search = dataclasses.replace(run.search, space=rate_decades(run))
    run.plugins = check_plugins(run)
    check_top(run)
    if (fits_task := adapter_of(run.task.adapter).fits) is not None:
        fits_task(run)
    for name in stages_run(choices(run)):
        if (fits := registry.get("stage", name).fits) is not None:
            fits(run)
    if run.method.inference is not None:
        registry.get("inference", run.method.inference.name).check(run)
    return run


def check_plugins(run: schema.RunConfig) -> dict[str, str]:
    """What in a config comes from outside the package -> the hash of its file, or its distribution's version.

    Raises:
        UsageError: a plug-in is not there, or is not the one that the run began with.
    """
    found = {f"{part.kind} {part.name}": part.origin for part in components(run) if part.origin}
    for plugin, origin in run.plugins.items():
        if found.get(plugin, origin) != origin:
            raise UsageError(f"{plugin}: was edited since this run began. Start it again.")
    return found


def check_top(run: schema.RunConfig) -> None:
    """Types and ranges of the scalars at the top of the config."""
    shots = run.shots
    if isinstance(shots, str) and shots != "full":
        raise UsageError(f"shots={shots}: must be 0, a whole number of examples or `full`.")
    if isinstance(shots, bool) or not isinstance(shots, (int, str)) or (isinstance(shots, int) and shots < 0):
        raise UsageError(f"shots={shots}: must be 0, a whole number of examples or `full`.")
    for key in ("seed", "data_seed"):
        value = getattr(run, key)
        if value is None and key == "data_seed":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
            raise UsageError(f"{key}={value}: must be a whole number from 0 to 4294967295.")
    for key in ("data_dir", "out_dir"):
        value = getattr(run, key)
        if value == "???" or (not isinstance(value, str) and not (value is None and key == "data_dir")):
            raise UsageError(f"{key}={value}: must be a folder.")
        check_place(key, value or "")
    if not isinstance(run.rerun, bool):
        raise UsageError(f"rerun={run.rerun}: must be true or false.")
    if run.evaluate not in ("test", "dev"):
        raise UsageError(f"evaluate={run.evaluate}: must be test or dev.")
    if run.trainer.reuse_frozen and run.trainer.dropout != 0:
        raise UsageError(
            "trainer.reuse_frozen=true: with dropout a text has other states in every step. Set trainer.dropout=0, or "
            "reuse_frozen=false."
        )
    if run.search.name != "none":
        read_space(run)
        if run.search.trials is None and run.search.seconds is None:
            raise UsageError(f"search={run.search.name}: has no budget. Give search.trials=20 or search.seconds=600.")


def explain(error: Exception, overrides: Sequence[str]) -> UsageError:
    """Hydra's and OmegaConf's composition errors as one message with the nearest valid choice."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        kind = group.split("/")[-1]
        return UsageError(f"{group}={shortened(choice)}: no such {kind}. {did_you_mean(choice[:100], error.options)}")
    if isinstance(error, OverrideParseException):
        return _unreadable(error, overrides)
    if found := _SWEEP.search(str(error)):
        return _sweep_without_m(_as_typed(found[1], overrides))
    if isinstance(error, OSError):
        return UsageError(f"{' '.join(map(shortened, overrides))}: {os.strerror(error.errno or 0).lower()}.")
    if isinstance(error, RecursionError):
        return UsageError(
            f"{' '.join(map(shortened, overrides))}: config files name each other in a circle, or nest too deeply."
        )
    if "Multiple values for method/trick" in str(error):
        return UsageError(f"method/trick: is given twice; {_SEVERAL}.")
    if isinstance(error, ConfigCompositionException):
        key = _unknown_key(error)
        if key is not None:
            if _TRICK.match(key) and not any(o.startswith("+") and _TRICK.match(o, 1) for o in overrides):
                return _trick_without_plus(key)
            if key.partition(".")[0] == "recipe" and not any(o.startswith("+recipe=") for o in overrides):
                return UsageError(
                    f"{shortened(key)}: no recipe is chosen yet. Add one with a plus, `+recipe=augmentation`. "
                    f"There are: {', '.join(names('recipe'))}."
                )
            if OPEN.match(key):
                return UsageError(f"{key}: is not there yet. Add it with a plus: `+{key}=...`.")
            return UsageError(
                f"{shortened(key)}: no such key. {did_you_mean(key[:100], _all_keys(error, overrides, key))}"
            )
        cause = error.__cause__
        detail = f"{first_line(error)} {first_line(cause)}" if cause else first_line(error)
        return UsageError(shortened(detail, 400))
    return _number_for_a_file(overrides) or UsageError(_with_overrides(first_line(error), overrides))


def _trick_without_plus(key: str) -> UsageError:
    """A trick that was not chosen, or was chosen as if the method had one already."""
    label, known = (
        key.replace("/", ".").removeprefix("method.trick").strip(".").partition(".")[0],
        names("method/trick"),
    )
    if label and label not in known:
        return UsageError(f"{shortened(key)}: no such trick. {did_you_mean(label[:100], known)}")
    return UsageError(
        f"{shortened(key)}: no trick is chosen yet. Add it with a plus, `+method/trick={label or 'ema'}`; {_SEVERAL}. "
        f"There are: {', '.join(known)}."
    )


def _with_overrides(words: str, overrides: Sequence[str]) -> str:
    """An error that names no override, with those that it can be about."""
    shown = " ".join(map(shortened, overrides[:5])) + (" ..." if len(overrides) > 5 else "")
    return shortened(words, 400) if any(o in words for o in overrides) else f"{shown}: {shortened(words, 400)}"


def _as_typed(override: str, overrides: Sequence[str]) -> str:
    """Without what `opened` has put in front."""
    typed = override.removeprefix("++")
    return typed if typed in overrides else override


def _unreadable(error: OverrideParseException, overrides: Sequence[str]) -> UsageError:
    """An override that is no `key=value`."""
    override = _as_typed(error.override, overrides)
    given, equals, value = override.partition("=")
    shown = shortened(override)
    if not equals or not given:
        return UsageError(f"{shown}: cannot be read as key=value.")
    quoted = (
        f"\"{shortened(given)}='{shortened(value)}'\""  # the outer quotes are for the shell, the inner ones for Hydra
    )
    why = "" if "LexerNoViableAlt" in str(error) else f"{shortened(first_line(error), 200)}. "
    return UsageError(
        f"{shown}: cannot be read as key=value. {why}A value with braces, brackets, "
        f"commas or spaces needs quotes within quotes: {quoted}"
    )


def _sweep_without_m(override: str) -> UsageError:
    """Several values in a command for one run."""
    given = shortened(override)
    key, _, value = given.partition("=")
    sweep = f"{given}: a list is a sweep: put -m in front (`peftbench -m {given}`)."
    if "/" in key or key in GROUPS or "(" in value:
        return UsageError(sweep)
    return UsageError(
        f"{sweep} One value with a comma in it needs quotes within quotes: \"{key}='{value}'\"; a key that takes a "
        f"list, brackets: '{key}=[{value}]'."
    )


def _number_for_a_file(overrides: Sequence[str]) -> UsageError | None:
    """What to say to `task=3`, where the name of a file is wanted and Hydra reads a number."""
    for override in overrides:
        group, _, value = override.partition("=")
        if group in GROUPS and re.fullmatch(r"-?[\d.]+|true|false|null", value):
            return UsageError(f"{override}: no such {group}. {did_you_mean(value, names(group))}")
    return None


def _unknown_key(error: Exception) -> str | None:
    """The override key that does not exist, if that is what the error is about."""
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match is None:
        return None
    cause = str(error.__cause__ or "") + str(error)
    inner = getattr(error.__cause__, "full_key", None)  # a key of the mapping that was to be set
    if inner and str(inner).startswith(f"{match[1]}."):
        return str(inner)
    return match[1] if "not in struct" in cause or "No match in the defaults list" in cause else None


def _all_keys(error: Exception, overrides: Iterable[str], bad: str) -> list[str]:
    """Dotted keys near the unknown one: its siblings if its parent exists, else the top-level keys."""
    if "." not in bad:
        return sorted({"hydra", *(f.name for f in dataclasses.fields(schema.RunConfig))} - set(schema.NOT_TYPED))
    cfg = _half_composed(error)
    if cfg is None:
        keys = {o: o.lstrip("+~").split("=")[0] for o in overrides}
        rest = [o for o, key in keys.items() if "." not in key or not f"{bad}.".startswith(f"{key}.")]
        try:
            cfg = compose_raw(rest if len(rest) < len(keys) else [])  # it may stand in a file that one of them names
        except UsageError:
            cfg = compose_raw([])
    parent, node = bad, None
    while parent and not isinstance(node, DictConfig):  # the nearest section that is there
        parent = parent.rpartition(".")[0]
        node = _section_at(cfg, parent)
    node = cfg if node is None else node
    return [f"{parent}.{k!s}" if parent else str(k) for k in node]


def _half_composed(error: Exception) -> DictConfig | None:
    """The config to which Hydra could not apply an override, if its error still holds it."""
    node = getattr(error.__cause__, "parent_node", None)
    while isinstance(node, DictConfig) and node._get_parent() is not None:
        node = node._get_parent()
    return node if isinstance(node, DictConfig) and "trainer" in node else None


def _section_at(cfg: DictConfig, key: str) -> Any:
    """What stands at a dotted key; None if nothing does, or if it is no key."""
    try:
        return OmegaConf.select(cfg, key) if key else cfg
    except OmegaConfBaseException:
        return None
