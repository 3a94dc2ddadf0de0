"""Metrics of generated code, a share from 0 to 1 a row. An invalid answer (None) has 0.

`exact_match` and `edit_similarity` look past white space: runs of it count as one space (ours). Of several references
the nearest counts.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.errors import UsageError

if TYPE_CHECKING:
    from peftbench.tasks.problems.base import Sourced


def exact_match(target: Sourced, answer: str | None) -> float:
    """1 if the answer is one of the references."""
    return float(answer is not None and _plain(answer) in map(_plain, target.references))


def edit_similarity(target: Sourced, answer: str | None) -> float:
    """1 - Levenshtein distance in characters / length of the longer text (Svyatkovskiy et al., ESEC/FSE 2020, arXiv
    2005.08025)."""
    if answer is None:
        return 0.0
    own = _plain(answer)
    return max(1 - distance(own, other) / max(len(own), len(other)) for other in map(_plain, target.references))


def distance(a: str, b: str) -> int:
    """The fewest insertions, deletions and replacements of characters that make one text of the other."""
    places, codes = np.arange(len(b) + 1), np.array([ord(sign) for sign in b])
    row = places
    for number, sign in enumerate(a, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(sign)))  # without insertions into this row
        row = np.minimum.accumulate(np.concatenate([[number], best]) - places) + places
    return int(row[-1])


def parses_java(target: Sourced, answer: str | None) -> float:
    """1 if the answer, put into a class, is that class with one method or more in it, and nothing else."""
    if answer is None:
        return 0.0
    tree = java_parser().parse(f"class A {{\n{answer}\n}}".encode("utf-8", "replace")).root_node
    parts = [node for node in tree.named_children if not node.is_extra]
    if tree.has_error or [node.type for node in parts] != ["class_declaration"]:
        return 0.0
    body = parts[0].child_by_field_name("body")
    return float(any(member.type == "method_declaration" for member in body.named_children))


@cache
def java_parser() -> Any:
    """tree-sitter's for Java; it says of any text what it could not read, and runs nothing.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import tree_sitter_java
        from tree_sitter import Language, Parser
    except ImportError:
        raise UsageError(
            "task.metrics: parses_java needs the packages tree-sitter and tree-sitter-java (pip install "
            "'peftbench[code]'). The other metrics of code need neither."
        ) from None
    return Parser(Language(tree_sitter_java.language()))


def _plain(code: str) -> str:
    return " ".join(code.split())
