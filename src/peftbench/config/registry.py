"""Where a name in a config leads: one lazy registry for stages, tricks, tuners, formulations and whatever has a name.

A name is one of these, looked for in this order:

    path/to/file.py[:OBJECT]    a Python file of the user's
    package.module:OBJECT       something that is installed
    NAME                        a built-in: the module `peftbench.<room>.NAME`, which declares itself by the constant
                                of its kind (`STAGE = Stage(...)`); else the entry point NAME of the group
                                `peftbench.<kind>s`

There is no list of names: whoever adds a module to a room has added it to the registry. The declaring modules of the
built-ins import nothing heavy, so that looking one up needs neither torch nor peft.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from peftbench.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Kind:
    """One kind of things that have names.

    Attributes:
        room: the package whose modules are the built-in ones.
        base: "module:Class"; an object of the kind is an instance or a subclass of it.
        constant: what the object is called in the module that declares it.
        key: where a config names it, for messages.
        bare: the base of what a plug-in may give in the place of a declaration; imported if it comes to that.
    """

    room: str
    base: str
    constant: str
    key: str
    bare: str = ""


KINDS = {
    "stage": Kind("peftbench.stages", "peftbench.stages.base:Stage", "STAGE", "method.stages"),
    "trick": Kind("peftbench.stages.tricks", "peftbench.stages.tricks.base:Trick", "TRICK", "method.trick"),
    "inference": Kind("peftbench.inference", "peftbench.inference.base:Declared", "INFERENCE", "method.inference.name"),
    "recipe": Kind("peftbench.stages.recipe", "peftbench.stages.recipe.base:Recipe", "RECIPE", "recipe.name"),
    "plot": Kind("peftbench.figures", "peftbench.figures.plot:Plot", "PLOT", "plot"),
    "tuner": Kind(
        "peftbench.tuners",
        "peftbench.tuners.base:TunerDeclaration",
        "TUNER",
        "method.tuner.name",
        bare="peftbench.tuners.base:Tuner",
    ),
    "formulation": Kind(
        "peftbench.formulations",
        "peftbench.formulations.declared:Declared",
        "FORMULATION",
        "method.formulation.name",
        bare="peftbench.formulations.base:Formulation",
    ),
    "adapter": Kind("peftbench.tasks", "types:FunctionType", "load", "task.adapter"),
    "problem": Kind("peftbench.tasks.problems", "peftbench.tasks.problems.base:Problem", "PROBLEM", "task.problem"),
    "metric": Kind("peftbench.tasks", "collections.abc:Callable", "METRIC", "task.metrics"),
}
"""The built-in metrics stand beside the kinds of targets (`peftbench.tasks.problems`); what is said here of them is
where a plug-in comes in."""


@dataclass(frozen=True)
class Address:
    """Where a name leads, without having gone there.

    Attributes:
        target: "module:OBJECT" or "/path/file.py:OBJECT"; OBJECT may be empty.
        origin: what tells one version of a plug-in from another, "sha256:..." or "distribution 1.2"; "" for a built-in.
    """

    name: str
    target: str
    origin: str = ""


def get(kind: str, name: str, key: str = "") -> Any:
    """The object of that kind and name.

    Args:
        key: the config's key that names it, for messages, if that is not the kind's usual one.

    Raises:
        UsageError: there is none of that name, it cannot be imported, or it is something else.
    """
    return _load(kind, address(kind, name, key))


def names(kind: str) -> list[str]:
    """Names of the built-ins and of the entry points, in order. Nothing is imported."""
    return sorted({*built_in(kind), *_entry_points(kind)})


def address(kind: str, name: str, key: str = "") -> Address:
    """Where a name leads. A user's file is read (for its hash) and not run.

    Raises:
        UsageError: there is nothing of that name.
    """
    place, _, attribute = name.rpartition(":") if re.search(r":\w+$", name) else (name, "", "")
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise UsageError(f"{key or KINDS[kind].key}: {place}: no such file.")
        return Address(name, f"{path}:{attribute}", _hash(path))
    if attribute:
        return Address(name, name, _origin_of_module(place))
    if name in built_in(kind):
        return Address(name, f"{KINDS[kind].room}.{name}:")
    if name in _entry_points(kind):
        point = _entry_points(kind)[name]
        return Address(name, point.value, f"{point.dist.name} {point.dist.version}" if point.dist else point.value)
    raise UsageError(f"{key or KINDS[kind].key}: `{name}` is no {kind}. {did_you_mean(name, names(kind))}")


def is_plugin(kind: str, name: str) -> bool:
    """Whether a name leads outside the package: to a file, an installed module's object or an entry point."""
    if re.search(r"\.py$|:\w+$", name):
        return True
    return name not in built_in(kind) and name in _entry_points(kind)  # looking for entry points costs 10 ms


def is_declared(kind: str, name: str) -> bool:
    """Whether behind a name stands a declaration of the kind, which may be imported to read it. A bare subclass is
    imported when something is built, for it brings torch along."""
    if name in built_in(kind):
        return True
    place = address(kind, name).target.rpartition(":")[0]
    file = Path(place) if place.endswith(".py") else _file_of_module(place)
    declaration = KINDS[kind].base.rpartition(":")[2]
    return file is not None and re.search(rf"\b{declaration}\(", file.read_text(encoding="utf-8")) is not None


def title(name: str) -> str:
    """A short name of a plug-in that may stand in a file's name: that of its object or file."""
    place, _, attribute = name.rpartition(":") if re.search(r":\w+$", name) else (name, "", "")
    return attribute or Path(place).stem


@cache
def built_in(kind: str) -> frozenset[str]:
    """Modules of the room that define the kind's constant, told from their text."""
    constant = KINDS[kind].constant
    defines = re.compile(rf"^({constant}\b.*=|def {constant}\()", re.MULTILINE)
    found = set()
    for item in files(KINDS[kind].room).iterdir():
        source = item.joinpath("__init__.py") if item.is_dir() else item
        if source.name.endswith(".py") and source.is_file() and defines.search(source.read_text(encoding="utf-8")):
            found.add(item.name.removesuffix(".py"))
    return frozenset(found)


@cache
def _entry_points(kind: str) -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=f"peftbench.{kind}s")}


@cache
def _load(kind: str, found: Address) -> Any:
    place, _, attribute = found.target.rpartition(":")
    module = run_file(Path(place)) if place.endswith(".py") else _import(kind, found.name, place)
    made = getattr(module, attribute, None) if attribute else _declared(kind, module)
    what = f"{KINDS[kind].key}: {found.name}"
    if made is None:
        raise UsageError(f"{what}: has no `{attribute or KINDS[kind].constant}`, so there is no {kind} in it.")
    if not _is_one(kind, made):
        shown = made.__name__ if inspect.isclass(made) else type(made).__name__
        wanted = (KINDS[kind].bare or KINDS[kind].base).rpartition(":")[2]
        raise UsageError(f"{what}: is no {kind}: a `{wanted}` is wanted, and this is a `{shown}`.")
    return made


def _declared(kind: str, module: ModuleType) -> Any:
    """The kind's constant, or the only object of the kind that the module makes."""
    if hasattr(module, KINDS[kind].constant):
        return getattr(module, KINDS[kind].constant)
    own = [v for v in vars(module).values() if _is_one(kind, v) and getattr(v, "__module__", "") == module.__name__]
    return own[0] if len(own) == 1 else None


def _is_one(kind: str, made: Any) -> bool:
    """Whether it is of the kind; what a plug-in gives may also be the bare thing, undeclared."""
    bare = KINDS[kind].bare
    return _is_a(made, imported(KINDS[kind].base)) or bool(
        bare and inspect.isclass(made) and _is_a(made, imported(bare))
    )


def _is_a(made: Any, base: type) -> bool:
    return isinstance(made, base) or (inspect.isclass(made) and issubclass(made, base) and made is not base)


def imported(target: Any) -> Any:
    """What "module:NAME" stands for; anything but a text stands for itself."""
    if not isinstance(target, str):
        return target
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _import(kind: str, name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{KINDS[kind].key}: {name}: {error}.") from error


def _origin_of_module(module: str) -> str:
    """The hash of the file of an importable module; "" if there is no such file."""
    path = _file_of_module(module)
    return "" if path is None else _hash(path)


def _file_of_module(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    path = Path(spec.origin) if spec is not None and spec.origin else None
    return path if path is not None and path.is_file() else None


def _hash(path: Path) -> str:
    return f"sha256:{sha256(path)}"


def sha256(path: Path) -> str:
    """The hash of a user's file, in hexadecimal; a large one (word vectors) is read once a process."""
    facts = path.stat()
    return _sha256(path, facts.st_mtime_ns, facts.st_size)


@cache
def _sha256(path: Path, changed: int, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@cache
def run_file(path: Path) -> ModuleType:
    """Import a file by its path, under a name that no package has; once in a process.

    Raises:
        UsageError: there is no such file, or it fails; the message names its line.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file.")
    name = f"peftbench_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up while they are made
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line = error.lineno if isinstance(error, SyntaxError) else line_of(error, path)
        raise UsageError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    return module


def line_of(error: BaseException, path: Path) -> int | None:
    """The last line of the file on the way to an error."""
    frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return frames[-1] if frames else None
