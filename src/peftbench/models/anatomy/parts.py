"""The description of a network that tuners ask: which module is which part. Names only, free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Role = Literal["query", "key", "value", "output", "in", "gate", "out"]
TARGETS: dict[str, tuple[Role, ...]] = {
    "attention.qv": ("query", "value"),
    "attention.all": ("query", "key", "value", "output"),
    "ffn": ("in", "gate", "out"),
    "all_linear": ("query", "key", "value", "output", "in", "gate", "out"),
}
"""Choice of `method.tuner.target` -> roles of the matrices that it stands for, in every block."""
Place = Literal["attention", "ffn"]
PLACES: tuple[Place, ...] = ("attention", "ffn")
"""The sub-layers of a block."""
Positions = Literal["learned", "sinusoidal", "rotary", "relative", "alibi", "none"]
"""How a network knows the order of its tokens: a trained or a fixed table at the embeddings, rotated queries and keys,
a bias of the scores by distance, a slope of the scores, or not at all."""
PrefixEntry = Literal["cache", "rows"]
"""Where keys and values can be put in front of an attention's: its cache; or, in a network without one, further rows of
what the attention reads, which get them as their keys and values and are cut off behind it."""


@dataclass(frozen=True)
class Projection:
    """A weight matrix, or some of the rows of one that is several projections at once.

    Attributes:
        name: the module that holds it.
        rows: (start, stop) of its outputs that are this projection's; empty: all of them. Outputs, whichever way round
            the weight is stored.
    """

    name: str
    rows: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Attention:
    """An attention: to the block's own input, or to the states of an encoder.

    Attributes:
        module: what computes the scores.
        heads: query heads; `kv_heads` of keys and values; `head_size` numbers in each.
    """

    module: str
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    heads: int
    kv_heads: int
    head_size: int

    def projections(self) -> dict[Role, Projection]:
        """Role -> projection."""
        return {"query": self.query, "key": self.key, "value": self.value, "output": self.output}


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward: out(act(gate x) * in x), or out(act(in x)) without a gate. A mixture of experts is used whole:
    `inward` and `outward` are then one module, which is no matrix."""

    inward: Projection
    outward: Projection
    gate: Projection | None = None
    experts: bool = False

    def projections(self) -> dict[Role, Projection]:
        """Role -> projection; none for experts, whose weights are no matrices of their own."""
        if self.experts:
            return {}
        return {"in": self.inward, **({"gate": self.gate} if self.gate else {}), "out": self.outward}


@dataclass(frozen=True)
class SubLayer:
    """What reads a block's stream and adds to it.

    Attributes:
        inlet: full name of the module that reads the sub-layer's input: the normalised one in a pre-norm network.
        outlet: full name of the module whose output is the sub-layer's, before dropout and the residual sum.
    """

    place: Place
    inlet: str
    outlet: str


@dataclass(frozen=True)
class Block:
    """One block of a stack.

    Attributes:
        name: full name of its module.
        passes: how often it runs in one forward pass; more than once where layers share one block (ALBERT).
        norms: full names of its norms.
    """

    name: str
    attention: Attention
    feed_forward: FeedForward
    cross: Attention | None = None
    passes: int = 1
    norms: tuple[str, ...] = ()

    def within(self, name: str) -> str:
        """The name of one of its modules without the block's own."""
        return name.removeprefix(f"{self.name}.")

    def attentions(self) -> list[Attention]:
        """Its own and that to the encoder, where it has one."""
        return [self.attention] + ([self.cross] if self.cross else [])

    def sublayers(self) -> list[SubLayer]:
        """Self-attention and feed-forward, where adapters go."""
        inlet = self.feed_forward.gate or self.feed_forward.inward
        return [
            SubLayer("attention", self.attention.query.name, self.attention.output.name),
            SubLayer("ffn", inlet.name, self.feed_forward.outward.name),
        ]


@dataclass(frozen=True)
class Stack:
    """Blocks in the order in which they run.

    Attributes:
        module: what is called with the mask and the cache of these blocks.
        causal: no token sees those behind it.
    """

    module: str
    kind: Literal["encoder", "decoder"]
    causal: bool
    blocks: tuple[Block, ...]

    @property
    def depth(self) -> int:
        """Layers that a token passes; more than there are blocks where blocks are shared."""
        return sum(block.passes for block in self.blocks)


@dataclass(frozen=True)
class Anatomy:
    """A network's parts by the full names of their modules.

    Attributes:
        architecture: `model_type` of its config.
        stack: the bare network below a language-model head; empty if there is no head.
        source: where the names come from: `anatomy.yaml`, the table of known architectures, or the network's structure.
        stacks: the encoder before the decoder.
        word_embeddings, position_embeddings: their modules; `projection`: from their width to the hidden one.
        embedding_scale: what the network multiplies the word embeddings of ids by, but not embeddings that it is given.
        first_position: position id of a first token.
        max_positions: positions it can take; None if there is no bound.
        norm: where its norms stand, see `architectures.yaml`.
        window: tokens that its local layers look back, or to either side; None where all is seen.
        prefix: see `PrefixEntry`.
    """

    architecture: str
    source: str
    stack: str
    stacks: tuple[Stack, ...]
    word_embeddings: str
    hidden_size: int
    embedding_size: int
    positions: Positions
    norm: Literal["pre", "post", "both"]
    prefix: PrefixEntry
    position_embeddings: str | None = None
    projection: str | None = None
    embedding_scale: float = 1.0
    first_position: int = 0
    max_positions: int | None = None
    window: int | None = None
    final_norms: tuple[str, ...] = ()

    def blocks(self) -> list[Block]:
        """All blocks, in the order of computation."""
        return [block for stack in self.stacks for block in stack.blocks]

    def sublayers(self) -> list[SubLayer]:
        """All sub-layers that adapters go to, in the order of computation."""
        return [sublayer for block in self.blocks() for sublayer in block.sublayers()]

    @property
    def last(self) -> Stack:
        """The stack that answers: the decoder, where there is one of its own."""
        return self.stacks[-1]

    def projections(self) -> Iterator[tuple[Place, Role, Projection]]:
        """(place, role, projection) of every matrix in the blocks, cross-attention's among those of attention."""
        for block in self.blocks():
            for attention in block.attentions():
                for role, projection in attention.projections().items():
                    yield "attention", role, projection
            for role, projection in block.feed_forward.projections().items():
                yield "ffn", role, projection
