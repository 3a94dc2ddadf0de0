"""Many configs that differ in a few overrides, at a small part of what composing each would cost.

Hydra takes some 35 ms for one config. Here it composes once for each distinct choice of files (`method=lora`); plain
values (`seed=3`) are then set by the same function that Hydra uses, and a section that does not change is checked once.
Whatever is out of the ordinary is composed in full. The result equals `peftbench.config.load.compose`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, TypeVar

import hydra
import omegaconf
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from peftbench.cache import Cache
from peftbench.config.hydra_source import CONFIG_MODULE
from peftbench.config.load import (
    check_overrides,
    compose_raw,
    explain,
    for_one_run,
    from_plain,
    resolve,
    to_run_config,
)
from peftbench.config.schema import RunConfig
from peftbench.config.sections import GROUPS, build_section
from peftbench.config.user_files import config_stamp, user_folder
from peftbench.errors import UsageError

T = TypeVar("T")
Plain = dict[str, Any]

VALUE, CHOICE = "value", "choice"
"""Kinds of overrides: `key=value` or `+part.key=value` that refers to no other key; the choice of a config file."""


def compose_remembered(overrides: Sequence[str]) -> RunConfig:
    """`peftbench.config.load.compose`, at half the cost where an earlier command chose the same files."""
    check_overrides(overrides)
    return Composer().compose(overrides)


class Composer:
    """`compose(overrides)` for one config after the other. Their sections are shared: take them for unchangeable."""

    def __init__(self) -> None:
        self._memory: dict[Any, Any] = {}
        self._first: _Base | None = None
        user = user_folder()
        self._folders: list[Any] = [files(CONFIG_MODULE), *([user] if user else [])]

    def compose(self, overrides: Sequence[str]) -> RunConfig:
        """The checked config of one run.

        Raises:
            UsageError: as `peftbench.config.load.compose`.
        """
        try:
            parsed = [parse(for_one_run(text)) for text in overrides]
        except HydraException as error:
            raise explain(error, overrides) from None
        kinds = [self._remember(("kind", o.input_line), functools.partial(self._kind, o)) for o in parsed]
        values = [o for o, kind in zip(parsed, kinds, strict=True) if kind == VALUE]
        choices = [o for o, kind in zip(parsed, kinds, strict=True) if kind == CHOICE]
        base = None
        if len(values) + len(choices) == len(parsed):
            base = self._base(tuple(str(o.input_line) for o in choices))
        if base is None or base.linked:
            return to_run_config(compose_raw(overrides))
        return from_plain(self._plain(base, values, overrides), self._section)

    def _kind(self, override: Override) -> str:
        """`VALUE`, `CHOICE` or "" for anything that is neither."""
        group = any(folder.joinpath(override.key_or_group).is_dir() for folder in self._folders)
        if group:
            # made before any value is set, wherever it stands among the overrides
            return "" if isinstance(override.value(), dict) else CHOICE
        added = override.type in (OverrideType.ADD, OverrideType.FORCE_ADD) and "." in override.key_or_group
        plain = (
            (override.type is OverrideType.CHANGE or added)
            and not override.is_sweep_override()
            and not override.is_hydra_override()
            and override.package is None
            and "${" not in (override.input_line or "")
        )
        return VALUE if plain else ""

    def _base(self, choices: tuple[str, ...]) -> _Base:
        base = self._remember(("base", choices), lambda: self._assembled(choices) or _Base.composed(choices))
        self._first = self._first or base
        return base

    def _assembled(self, choices: tuple[str, ...]) -> _Base | None:
        """The base put together from the first one and those that differ from it in one section each.

        So a sweep over m methods and t tasks takes m + t compositions, not m x t. None if the choices differ in one
        section only, or if a file that varies may write outside of the section of its group.
        """
        if self._first is None:
            return None
        first, own = _by_key(self._first.choices), _by_key(choices)
        changed = {key for key in first.keys() | own.keys() if first.get(key) != own.get(key)}
        sections = {key.partition("/")[0] for key in changed}
        if len(sections) < 2 or not all(map(self._is_local, sections)):
            return None
        parts = dict(self._first.parts)
        for section in sections:
            of_section = {key for key in changed if key.partition("/")[0] == section}
            mixed = first | {key: own[key] for key in of_section & own.keys()}
            for key in of_section - own.keys():
                del mixed[key]
            try:
                single = self._base(tuple(mixed.values()))
            except UsageError:  # perhaps only beside the first one's other choices
                return None
            if single.linked or section not in single.parts:
                return None
            parts[section] = single.parts[section]
        return replace(self._first, choices=choices, parts=parts)

    def _is_local(self, group: str) -> bool:
        """Whether the files of a group write into their own section alone, whatever else is chosen."""
        if ("local", group) not in self._memory:
            folders = [folder.joinpath(group) for folder in self._folders if folder.joinpath(group).is_dir()]
            elsewhere = any(_ELSEWHERE.search(text) for folder in folders for text in _texts(folder))
            self._memory["local", group] = bool(folders) and not elsewhere
        return self._memory["local", group]

    def _plain(self, base: _Base, values: Sequence[Override], overrides: Sequence[str]) -> Plain:
        """The plain values of the base with `values` set."""
        plain = dict(base.top)
        by_section: dict[str, list[Override]] = {name: [] for name in base.parts}
        for override in values:
            key, value = override.key_or_group, override.value()
            if key in plain and not isinstance(value, (list, dict)) and value != "???":
                plain[key] = value
            else:
                by_section.setdefault(key.partition(".")[0], []).append(override)
        for name, own in by_section.items():
            memory = ("plain", id(base.part(name)), name, tuple(str(o.input_line) for o in own))
            plain |= self._remember(memory, functools.partial(self._set, base, name, own, overrides))
        return plain

    def _set(self, base: _Base, name: str, own: Sequence[Override], overrides: Sequence[str]) -> Plain:
        """Section `name` of the base with its own overrides; one object for each content."""
        found = resolve(base.with_values(name, own, overrides))
        for group in GROUPS.keys() & found.keys():
            text = json.dumps(found[group], default=repr)
            found[group] = self._memory.setdefault(("text", group, text), found[group])
        return found

    def _section(self, group: str, plain: Plain) -> Any:
        return self._remember(("section", group, id(plain)), lambda: build_section(group, plain))

    def _remember(self, key: Any, make: Callable[[], T]) -> T:
        """`make()`, or what it gave, or the mistake it raised, at its last call for this key."""
        if key not in self._memory:
            try:
                self._memory[key] = make()
            except UsageError as error:
                self._memory[key] = error
        found = self._memory[key]
        if isinstance(found, UsageError):
            raise found
        return found


@dataclass(frozen=True)
class _Base:
    """What Hydra composes for some choices of files.

    Attributes:
        parts: section -> a composed config that has it as it is here.
        whole: one of those configs.
        top: the plain values outside of sections.
        linked: whether a value refers to a key of another section, so that no section can be made without the others.
    """

    choices: tuple[str, ...]
    parts: dict[str, DictConfig]
    whole: DictConfig
    top: Plain
    linked: bool

    @classmethod
    def composed(cls, choices: tuple[str, ...]) -> _Base:
        """By Hydra."""
        cfg = composed(choices)
        unresolved = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(unresolved, dict)
        parts = {str(name): cfg for name, value in unresolved.items() if isinstance(value, dict)}
        linked = reaches_out(unresolved, 0)
        top = [str(name) for name in unresolved if name not in parts]
        return cls(choices, parts, cfg, {} if linked else resolve(OmegaConf.masked_copy(cfg, top)), linked)

    def part(self, name: str) -> DictConfig:
        """The config that has this section."""
        return self.parts.get(name, self.whole)

    def with_values(self, name: str, own: Sequence[Override], overrides: Sequence[str]) -> DictConfig:
        """A copy of one section with overrides of its keys, set as Hydra would. Of a section that is not there yet
        (`+recipe.name=...`) nothing but what is added; the others are there for the words of a refusal alone."""
        part = OmegaConf.masked_copy(self.part(name), [name] if name in self.part(name) else list(self.parts))
        OmegaConf.set_struct(part, True)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(list(own), part)
        except HydraException as error:
            raise explain(error, overrides) from None
        return OmegaConf.masked_copy(part, [name])


_ELSEWHERE = re.compile(r"@package|@_|^\s*- *(override +)?/|^\s*-.*\$\{", re.MULTILINE)
"""What a config file says if it writes outside of its group's section, or depends on the choice in another group."""


def _by_key(choices: Sequence[str]) -> dict[str, str]:
    """The last choice of each key."""
    return {choice.partition("=")[0]: choice for choice in choices}


def _texts(folder: Any) -> Iterator[str]:
    """The config files below a folder."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _texts(item)
        elif item.name.endswith((".yaml", ".yml")):
            yield item.read_text(encoding="utf-8")


def composed(choices: tuple[str, ...]) -> DictConfig:
    """`compose_raw`, or what an earlier command got from it, if neither Hydra nor a config file has changed since."""
    key, memory = [hydra.__version__, omegaconf.__version__, *config_stamp(), *choices], Cache("composed")
    known = memory.get(key)
    if known is not None:
        return OmegaConf.create(with_own_keys(known))
    made = compose_raw(choices)
    memory.put(key, with_text_keys(OmegaConf.to_container(made, resolve=False)))
    return made


PAIRS = "<pairs>"
"""Key of what stands for a mapping whose keys are no texts, as the numbers of labels: JSON has no such mapping."""


def with_text_keys(value: Any) -> Any:
    """A plain value as JSON gives it back; `with_own_keys` is the way back."""
    if isinstance(value, dict):
        pairs = [[key, with_text_keys(own)] for key, own in value.items()]
        return dict(pairs) if all(type(key) is str for key in value) else {PAIRS: pairs}
    return [with_text_keys(own) for own in value] if isinstance(value, list) else value


def with_own_keys(value: Any) -> Any:
    """What `with_text_keys` was given."""
    if isinstance(value, dict):
        pairs = value[PAIRS] if PAIRS in value else value.items()
        return {key: with_own_keys(own) for key, own in pairs}
    return [with_own_keys(own) for own in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=100_000)
def parse(text: str) -> Override:
    """Hydra's reading of one override."""
    return OverridesParser.create().parse_override(text)


def reaches_out(value: Any, depth: int) -> bool:
    """Whether a text in `value`, which lies `depth` keys below the top, refers to a key outside of its section."""
    if isinstance(value, dict):
        return any(reaches_out(v, depth + 1) for v in value.values())
    if isinstance(value, list):
        return any(reaches_out(v, depth + 1) for v in value)
    if not isinstance(value, str) or "${" not in value:
        return False
    relative = value.split("${")[1:]
    climbs = [len(part) - len(part.lstrip(".")) for part in relative]
    return any(climb == 0 or climb >= depth for climb in climbs)
