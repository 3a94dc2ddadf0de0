"""Whatever other modules may use says what it is: a public function, class or method has a docstring of its own, or is
an override of one that has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import peftbench

Method = ast.FunctionDef | ast.AsyncFunctionDef
TREES = {path: ast.parse(path.read_text()) for path in Path(peftbench.__file__).parent.rglob("*.py")}
CLASSES: dict[str, list[ast.ClassDef]] = {}
for _tree in TREES.values():
    for _class in (node for node in ast.walk(_tree) if isinstance(node, ast.ClassDef)):
        CLASSES.setdefault(_class.name, []).append(_class)


def methods_of(cls: ast.ClassDef) -> dict[str, Method]:
    return {node.name: node for node in cls.body if isinstance(node, Method) and not node.name.startswith("_")}


def bases_of(cls: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in cls.bases]


def overrides(cls: ast.ClassDef, name: str) -> bool:
    """Whether a base of ours has a method of that name, or a library's may have it."""
    bases = [base for base in bases_of(cls) if base not in ("ABC", "Protocol", "NamedTuple", "Generic")]
    ours = [found for base in bases for found in CLASSES.get(base, ())]
    return any(base not in CLASSES for base in bases) or any(
        name in methods_of(found) or overrides(found, name) for found in ours
    )


def undocumented(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, Method | ast.ClassDef) or node.name.startswith("_"):
            continue
        methods = methods_of(node) if isinstance(node, ast.ClassDef) else {}
        is_plain = isinstance(node, ast.ClassDef) and not methods and bases_of(node)  # its base and attributes say all
        if not ast.get_docstring(node) and not is_plain:
            yield node.name
        for name, method in methods.items():
            if not ast.get_docstring(method) and not overrides(node, name):  # type: ignore[arg-type]
                yield f"{node.name}.{name}"


def test_what_is_public_says_what_it_is() -> None:
    found = [f"{path.stem}: {name}" for path, tree in TREES.items() for name in undocumented(tree)]
    assert not found
