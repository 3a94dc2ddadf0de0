"""Whether data that came from JSON is of the types that a reader takes it for."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

DEPTH = 32
"""Nested lists and dictionaries; a resolved config has six."""
GREATEST = 1e60
"""No measure is greater, and squares of such numbers are still finite."""
WHOLE = 2**63
"""Bound of whole numbers: bytes, parameters and seeds fit."""

_WORDS = {
    dict: "a dictionary", list: "a list", str: "text", int: "a whole number", float: "a number",
    bool: "true or false", type(None): "null",
}  # fmt: skip
_ANYTHING: dict[type, Any] = {dict: dict[str, Any], list: list[Any]}


def check(value: Any, hint: Any, name: str = "record", depth: int = 0) -> None:
    """Make sure that `value`, as it came from JSON, is of the type `hint`.

    `hint` is made of str, int, float, bool, None, Any, Literal, unions, lists, dictionaries with text as keys, and
    TypedDict classes. A whole number is a float as well; True and False are no numbers.

    Raises:
        ValueError: it is not; the text names the field, dotted.
    """
    if depth > DEPTH:
        raise ValueError(f"{name}: nested too deeply")
    if hint is Any:
        if not _is_sound(value, depth):  # which says nothing of where
            _check(value, _ANYTHING.get(type(value), type(value)), name, depth)
        return
    wanted, parts = _taken_apart(hint)
    if wanted in (Union, types.UnionType):
        _check_union(value, parts, name, depth)
    elif wanted is Literal:
        if value not in parts or not isinstance(value, str):
            raise ValueError(f"{name}: not one of {', '.join(map(str, parts))}")
    else:
        _check(value, hint, name, depth)


def _is_sound(value: Any, depth: int) -> bool:
    """Whether nothing is wrong with a value that may be anything: most of a record is a config, of thousands."""
    kind = type(value)
    if kind is dict or kind is list:
        items = value.values() if kind is dict else value
        return depth <= DEPTH and all(type(item) is str or _is_sound(item, depth + 1) for item in items)
    if kind is int or kind is float:
        return bool(abs(value) < (WHOLE if kind is int else GREATEST))
    return kind is str or kind is bool or value is None


def _check_union(value: Any, choices: tuple[Any, ...], name: str, depth: int) -> None:
    """The first choice that fits; if none does, what is wrong by the first one of this value's own kind."""
    problems = []
    for choice in choices:
        try:
            return check(value, choice, name, depth)
        except ValueError as error:
            problems.append(error)
    raise problems[0]


def _check(value: Any, hint: Any, name: str, depth: int) -> None:
    """`check` of one that is neither a union nor Literal nor Any."""
    wanted, parts = _taken_apart(hint)
    if wanted is TypedDict:
        known = _hints(hint)
        _of_type(value, dict, name)
        if missing := sorted(hint.__required_keys__ - value.keys()):
            raise ValueError(f"{name}: lacks {', '.join(missing)}")
        for key, item in value.items():
            check(item, known.get(key, Any), f"{name}.{key}", depth + 1)
        return
    _of_type(value, wanted, name)
    if wanted is dict:
        for key, item in value.items():
            check(item, parts[1], f"{name}.{key}", depth + 1)
    elif wanted is list:
        for item in _representatives(value):
            check(item, parts[0], name, depth + 1)
    elif wanted in (int, float) and not abs(value) < (WHOLE if isinstance(value, int) else GREATEST):  # nor is NaN
        raise ValueError(f"{name}: no finite number of a size that a run can have")


def _representatives(items: list[Any]) -> list[Any]:
    """Of numbers and None the extremes and one of each type, which stand for all: curves are long. Else every item."""
    by_type = {type(item): item for item in items}
    if len(items) < 9 or not by_type.keys() <= {int, float, type(None)}:
        return items
    numbers = [item for item in items if item is not None]
    return [*by_type.values(), *((min(numbers), max(numbers)) if numbers else ())]


def _of_type(value: Any, wanted: type, name: str) -> None:
    accepted = (int, float) if wanted is float else wanted
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{name}: {_WORDS[type(value)]}, not {_WORDS[wanted]}")


@cache
def _taken_apart(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """What a type is of, and its parts; a TypedDict is of `TypedDict`."""
    return (TypedDict, ()) if is_typeddict(hint) else (get_origin(hint) or hint, get_args(hint))


@cache
def _hints(hint: type) -> dict[str, Any]:
    return get_type_hints(hint)
