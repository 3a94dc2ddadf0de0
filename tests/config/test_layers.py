"""The arrows between rooms go one way: a room imports what lies below it, also inside its functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

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
    {"tuners", "formulations"},
    {"models"},
    {"tasks", "arguments"},
    {"config"},
    {"attempt", "hub"},
    {"cache", "measure", "json_types", "options"},
    {"files"},
    {"errors", "version", "imports"},
]
"""From the top down. What stands in one set knows nothing of each other; so there can be no circle."""


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Names of the project that a file imports, with lines; what only a type checker sees is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "peftbench":
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names if a.name.startswith("peftbench."))


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


def test_an_arrow_that_runs_up_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from peftbench.cli import main\n"
        "def f():\n    from peftbench.stages import get_stage\n"
    )
    assert [(room(name), line) for name, line in imports(path)] == [("stages", 5)]
