"""The space of a search: which keys may vary, and between what. Free of torch and of optuna.

A method's file declares it in the layout of the method (`space.lr.lora` is about `method.lr.lora`), a list a key:

    [1.0e-4, 1.0e-2, log]    a number between the two, tried evenly on a logarithmic scale
    [0.0, 0.3, linear]       a number between the two
    [1, 8, int]              a whole number between the two, both included
    [4, 8, 16]               one of these, whatever they are

`search.space` says the same about any key of `method` and `trainer`, by its whole name, and wins over the method's.
null takes a key, or all keys below it, out of the space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

SCALES = ("log", "linear", "int")
ROOTS = ("method", "trainer")
"""Groups whose keys may be searched: to choose the task, the rows or a seed by score would be no tuning."""
DIGITS = 3
"""Significant digits of a number that a search tries: more would not be read, nor make a difference."""


@dataclass(frozen=True)
class Dimension:
    """One key of a space: a range (`scale` says how it is divided) or, without a scale, a choice of `values`."""

    key: str
    values: tuple[Any, ...]
    scale: str | None = None

    def contains(self, value: Any) -> bool:
        """Whether a search could try `value`."""
        if self.scale is None:
            return value in self.values
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = self.scale != "int" or (number and float(value).is_integer())
        return number and whole and self.values[0] <= value <= self.values[1]


def declared(config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Whole key -> its list, from a plain config: the method's space with the search's laid over it."""
    found: dict[str, list[Any]] = {}
    _collect(found, "method", (config.get("method") or {}).get("space"))
    _collect(found, "", (config.get("search") or {}).get("space") or {})
    return dict(sorted(found.items()))


def _collect(found: dict[str, list[Any]], key: str, node: Any) -> None:
    """Put the lists below `node` into `found`; null takes out what stands there at and below `key`."""
    if isinstance(node, Mapping):
        for name, below in node.items():
            _collect(found, f"{key}.{name}" if key else str(name), below)
    elif node is None:
        for known in [k for k in found if k == key or k.startswith(f"{key}.") or not key]:
            del found[known]
    elif isinstance(node, (list, tuple)):
        found[key] = list(node)
    else:
        raise UsageError(
            f"the space of {key} is {node}: it must be a list, as [1e-4,1e-2,log], [1,8,int] or [4,8,16]; or null for "
            "no search of it."
        )


def rate_decades(cfg: RunConfig) -> dict[str, Any]:
    """`search.space` of `search.rates=decades`: each group of `method.lr`, the head's too, from a tenth to ten times
    its value as given, on a logarithmic scale; what `search.space` says itself stays.

    One rule for all methods: the ranges in their files differ in width, and leave the head's rate out.
    """
    rates = {
        group: [float(f"{rate * factor:.{DIGITS}g}") for factor in (0.1, 10)] + ["log"]
        for group, rate in (cfg.method.lr or {}).items()
        if rate
    }
    return _over({"method": {"lr": rates}} if rates else {}, cfg.search.space or {})


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other."""
    both = {key: _over(below[key], above[key]) for key in below.keys() & above.keys() if _both(below, above, key)}
    return {**below, **above, **both}


def _both(below: Mapping[str, Any], above: Mapping[str, Any], key: str) -> bool:
    return isinstance(below[key], Mapping) and isinstance(above[key], Mapping)


def read_space(cfg: RunConfig) -> list[Dimension]:
    """The checked space of a config, in the order of the keys.

    Raises:
        UsageError: it is empty; a key does not exist, or may not be searched; a list is no range and no choice; or an
            end of a range or a choice is no valid value of its key.
    """
    plain = {"method": asdict(cfg.method), "trainer": asdict(cfg.trainer), "search": asdict(cfg.search)}
    space = [_dimension(key, values) for key, values in declared(plain).items()]
    if not space:
        raise UsageError(
            f"search={cfg.search.name}: method={cfg.method.name} declares nothing to search. Say what to try, as in "
            "`+search.space.trainer.steps=[40,80,160]`, or search=none."
        )
    for dimension in space:
        _check_key(dimension.key, plain)
        if cfg.method.budget is not None and dimension.key.startswith("method.tuner."):
            raise UsageError(
                f"method.budget={cfg.method.budget} decides the tuner's size, and the space varies {dimension.key}: "
                "take one of them out (method.space.tuner=null or method.budget=null)."
            )
    for number in range(max(len(d.values) for d in space)):  # every end and choice must be a value of its key
        with_values(cfg, {d.key: d.values[min(number, len(d.values) - 1)] for d in space})
    return space


def _dimension(key: str, values: list[Any]) -> Dimension:
    """A list as a range or a choice."""
    shown = f"{key}: [{', '.join(map(str, values))}]"
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in values]
    if len(values) != 3 or numbers != [True, True, False] or not isinstance(values[2], str):
        if not values:
            raise UsageError(f"the space of {shown} is empty: give values, as [4,8,16]; or null for no search of it.")
        return Dimension(key, tuple(values))
    low, high, scale = values
    if scale not in SCALES:
        raise UsageError(f"the space of {shown}: `{scale}` is no scale. {did_you_mean(scale, SCALES)}")
    if not low < high:
        raise UsageError(f"the space of {shown}: the first number must be below the second.")
    if scale == "log" and low <= 0:
        raise UsageError(f"the space of {shown}: a logarithmic scale needs numbers above 0.")
    if scale == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise UsageError(f"the space of {shown}: `int` needs whole numbers at both ends.")
    return Dimension(key, (int(low), int(high)) if scale == "int" else (float(low), float(high)), scale)


def _check_key(key: str, plain: Mapping[str, Any]) -> None:
    """Whether the config has the key. `options` of a tuner are open: what is not given there is peft's default."""
    parent, _, name = key.rpartition(".")
    if key.split(".")[0] not in ROOTS or not parent:
        raise UsageError(f"the space of {key}: only keys of method and trainer are searched, such as trainer.steps.")
    node: Any = plain
    for part in parent.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        raise UsageError(f"the space of {key}: there is no {parent}.")
    if name not in node and not parent.endswith(".options"):
        raise UsageError(f"the space of {key}: no such key. {did_you_mean(key, [f'{parent}.{k}' for k in node])}")


def with_values(cfg: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """`cfg` without its search and with `values` at their whole keys, checked like a config from the command line.

    Raises:
        UsageError: a value has the wrong type or range.
    """
    from peftbench.config.schema import SearchConfig
    from peftbench.config.sections import build_section

    plain = {root: asdict(getattr(cfg, root)) for root in ROOTS}
    for key, value in values.items():
        *parents, name = key.split(".")
        node = plain
        for part in parents:
            node = node[part]
        node[name] = value
    return replace(cfg, **{root: build_section(root, plain[root]) for root in ROOTS}, search=SearchConfig())


def value_at(cfg: RunConfig, key: str) -> Any:
    """The config's value at a whole key; None if it is not there."""
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else getattr(node, part, None)
    return node
