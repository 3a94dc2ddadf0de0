"""The arrows between rooms go one way: a room imports what lies below it, also inside its functions and for type hints;
and no two files of one room need each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import peftbench

ROOT = Path(peftbench.__file__).parent
LAYERS = [
    {"__main__"},
    {"cli"},
    {"completion"},
    {"help"},
    {"inspect"},
    {"api"},
    {"sweeps"},
    {"search", "reproduce", "conformance", "terms"},
    {"ddp_worker"},
    {"runner"},
    {"run_devices"},
    {"session"},
    {"figures"},
    {"views"},
    {"tables"},
    {"saved"},
    {"statistics"},
    {"build"},
    {"init_from", "migration"},
    {"inputs"},
    {"inference"},
    {"stages"},
    {"records"},
    {"training"},
    {"learner"},
    {"tuners", "formulations", "passes"},
    {"models"},
    {"tasks", "arguments"},
    {"config"},
    {"attempt", "hub"},
    {"cache", "measure", "json_types", "options"},
    {"files"},
    {"errors", "version", "imports"},
]
"""From the top down. What stands in one set knows nothing of each other; so there can be no circle."""


BACK = {
    # A task knows its kind, and what a kind declares are functions of tasks: one idea in two files; hints alone.
    ("peftbench.tasks.problems.base", "peftbench.tasks.base"),
}
"""Imports that close a circle of files and stay: (importing module, imported)."""


@cache
def imports(path: Path) -> list[tuple[str, int]]:
    """Names of the project that a file imports, with lines; those inside functions and for a type checker, too."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "peftbench":
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name.startswith("peftbench."))


@cache
def arrows() -> dict[str, set[str]]:
    """Module -> the modules that it imports, or imports names from."""
    files = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for module, path in files.items():
        names = (name for name, _ in imports(path))
        found[module] = {name if name in files else name.rpartition(".")[0] for name in names} & files.keys() - {module}
    return found


def circle(arrows: Mapping[str, Set[str]]) -> list[str]:
    """The modules of one circle, each imported by the next; empty if there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def room(name: str) -> str:
    """`peftbench.tuners.lora` is in `tuners`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def upward() -> list[str]:
    """Imports of a room of the same or a higher level."""
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        for name, line in imports(path):
            other = room(name)
            if other != own and {own, other} <= level.keys() and level[other] <= level[own]:
                found.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {other}")
    return found


def test_no_arrow_runs_back_up() -> None:
    assert upward() == []


def test_every_room_has_its_level() -> None:
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "conf", "assets"} == set().union(*LAYERS)


def circle_without(left_out: Set[tuple[str, str]]) -> list[str]:
    """A circle of the project's files that has none of these imports."""
    return circle({module: {to for to in own if (module, to) not in left_out} for module, own in arrows().items()})


def test_no_files_need_each_other() -> None:
    assert circle_without(BACK) == []


@pytest.mark.parametrize("arrow", sorted(BACK))
def test_what_may_close_a_circle_does(arrow: tuple[str, str]) -> None:
    assert circle_without(BACK - {arrow}), "there is no circle any more: take it off the list"


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


def test_an_arrow_that_runs_up_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from peftbench.cli import main\n"
        "def f():\n    from peftbench.stages import get_stage\n"
    )
    assert [(room(name), line) for name, line in imports(path)] == [("cli", 3), ("stages", 5)]
