"""Every number of every packaged config: what is outside its range, not finite or no number ends in a message."""

import dataclasses
import math
from importlib.resources import files
from typing import Any, NamedTuple

import pytest
import yaml

from peftbench.config import compose
from peftbench.config.catalogue import names
from peftbench.config.sections import build, build_section
from peftbench.errors import UsageError

GROUPS = ("protocol", "trainer", "search", "tracking")
METHOD = {"name": "x", "description": "x", "tuner": {"name": "full"}, "formulation": {"name": "auto"}}


class Number(NamedTuple):
    """One numeric field: the dataclass that has it, its other values, where it stands, and its range."""

    owner: type
    values: dict[str, Any]
    where: str
    path: tuple[str, ...]
    whole: bool
    metadata: Any


def parts():
    """Dotted place and dataclass instance of every packaged file whose numbers users may set; the tuners and
    formulations inside one method, where they are checked as in any other."""
    method = compose(["method=pet"]).method
    yield "method", method
    for part in ("tuner", "formulation"):
        for name in names(f"method/{part}"):
            values = packaged(f"method/{part}", name)
            given = {key: __file__ if key == "file" else "VERA" for key, value in values.items() if value == "???"}
            section = {**METHOD, part: {**values, **given}}
            yield f"method.{part}", getattr(build_section("method", section), part)
    for group in GROUPS:
        yield from ((group, build_section(group, packaged(group, name))) for name in names(group))


def packaged(group: str, name: str) -> dict[str, Any]:
    found = yaml.safe_load(files("peftbench.conf").joinpath(group, f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key != "defaults" and "${" not in str(value)}


def numbers(instance: Any, where: str):
    """Dotted key and `Number` of each numeric field, those of nested dataclasses included."""
    values = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}
    plain = {k: METHOD.get(k, {}) if dataclasses.is_dataclass(v) else v for k, v in values.items()}
    for f in dataclasses.fields(instance):
        kind, value = str(f.type), values[f.name]
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{where}.{f.name}")
        elif kind.startswith(("int", "float", "list[int]", "list[float]", "dict[str, float]")):
            for path in [(f.name, name) for name in value] if isinstance(value, dict) else [(f.name,)]:
                key = ".".join((where, *path))
                yield key, Number(type(instance), plain, where, path, "int" in kind, f.metadata)


NUMBERS = {key: number for where, instance in parts() for key, number in numbers(instance, where)}


def outside(metadata: Any):
    """Values that the range excludes, the bound itself among them where it is not included."""
    for name, steps in (("ge", (-1,)), ("gt", (0, -1)), ("le", (1,))):
        if metadata.get(name) is not None:
            yield from (metadata[name] + step for step in steps)


@pytest.mark.parametrize("key", sorted(NUMBERS))
def test_a_wrong_number_is_refused_by_name(key):
    owner, values, where, (name, *member), whole, metadata = NUMBERS[key]
    for wrong in (*outside(metadata), math.nan, math.inf, -math.inf, True, "a text", *([2**80] if whole else [])):
        value = {member[0]: wrong} if member else [wrong] if isinstance(values[name], list) else wrong
        with pytest.raises(UsageError, match=key.replace(".", r"\.")):
            build(owner, {**values, name: value}, where)


def test_every_number_has_a_range():
    assert {"trainer.epochs", "search.seconds", "trainer.clip", "method.tuner.rank"} <= NUMBERS.keys()
    assert any(key.startswith("method.lr.") for key in NUMBERS)
    assert [key for key, number in NUMBERS.items() if not any(b is not None for b in number.metadata.values())] == []


def test_a_method_without_stages_is_none():
    with pytest.raises(UsageError, match=r"method\.stages=\[\]: must not be empty"):
        build_section("method", {**METHOD, "stages": []})


@pytest.mark.parametrize("options", [{"alpha": math.nan}, {"ranks": [1, math.inf]}, {"of": {"deep": -math.inf}}])
def test_numbers_in_open_options_are_finite(options):
    tuner = {"name": "peft", "type": "VERA", "options": options}
    with pytest.raises(UsageError, match=r"method\.tuner\.options.*finite"):
        build_section("method", {**METHOD, "tuner": tuner})
