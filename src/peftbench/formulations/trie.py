"""Token sequences whose common beginnings are stored once: the answers that a model may give. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ROOT = -1
"""The place before the first token: where the prompt ends."""


@dataclass(frozen=True)
class Edge:
    """One step of one sequence: behind `node` stands `token`."""

    node: int
    token: int
    sequence: int


@dataclass
class Trie:
    """A trie over sequences that each end with a token of their own (end-of-sequence), which no node stands for.

    Attributes:
        sequences: the token ids, not empty.
        tokens, parents, depths: of each inner node, parents before children. First tokens have the depth 0 and `ROOT`
            for a parent.
        edges: every step of every sequence; what several share is there for each of them.
    """

    sequences: Sequence[Sequence[int]]
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}
        for number, sequence in enumerate(self.sequences):
            node = ROOT
            for place, token in enumerate(sequence):
                self.edges.append(Edge(node, token, number))
                if place + 1 < len(sequence):
                    node = self._child(node, token, place)

    def _child(self, node: int, token: int, depth: int) -> int:
        key = (node, token)
        if key not in self._children:
            self._children[key] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(node)
            self.depths.append(depth)
        return self._children[key]

    @property
    def height(self) -> int:
        """Nodes on the longest path."""
        return 1 + max(self.depths, default=-1)

    def lineage(self, node: int) -> list[int]:
        """The nodes from the first token to `node`, itself included."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def paths(self) -> list[list[int]]:
        """The lineages of the nodes without children: together they hold every node."""
        leaves = sorted(set(range(len(self.tokens))) - set(self.parents))
        return [self.lineage(node) for node in leaves]

    def following(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that may stand behind these, in order; empty behind a whole sequence, or what begins none."""
        node: int | None = ROOT
        for token in tokens:
            node = self._children.get((node, token)) if node is not None else None
        return sorted({edge.token for edge in self.edges if edge.node == node}) if node is not None else []
