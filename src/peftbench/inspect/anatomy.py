"""`peftbench ls models NAME --anatomy`: which module of a network is which part, as every tuner sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peftbench.config import compose
from peftbench.config.catalogue import names
from peftbench.errors import UsageError, did_you_mean
from peftbench.options import OptionParser

if TYPE_CHECKING:
    from peftbench.models.anatomy.parts import Anatomy, Projection

PURPOSES = {"encoder": "features", "causal": "features", "seq2seq": "lm"}


def ls_anatomy(args: list[str]) -> int:
    """The command; no weights are loaded or downloaded.

    Raises:
        UsageError: there is no such model, or its parts cannot be known.
    """
    parser = OptionParser("ls", "Which module of a network is which part, as every tuner sees it.")
    parser.add_argument("group", choices=("models", "model"), metavar="models")
    parser.add_argument("name", metavar="NAME", help="a model (`peftbench ls models`); hub and local need model.path=")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="model.path=..., model.family=...")
    parser.add_argument("--anatomy", action="store_true", required=True)
    options = parser.parse(args)
    if options.name not in names("model"):
        raise UsageError(f"ls models {options.name}: no such model. {did_you_mean(options.name, names('model'))}")
    from peftbench.models.outline import outline

    cfg = compose([f"model={options.name}", *options.overrides]).model
    anatomy = outline(cfg, PURPOSES[cfg.family]).anatomy  # type: ignore[arg-type]
    print(json.dumps(asdict(anatomy), indent=1) if options.json else "\n".join(lines(anatomy)))
    return 0


def lines(anatomy: Anatomy) -> Iterator[str]:
    """A fact a line; of blocks that are alike the first."""
    for key, value in {
        "architecture": anatomy.architecture,
        "known from": anatomy.source,
        "widths": f"{anatomy.hidden_size} hidden, {anatomy.embedding_size} of the word embeddings",
        "word embeddings": anatomy.word_embeddings,
        "projection": anatomy.projection,
        "positions": f"{anatomy.positions}{places(anatomy)}",
        "norms": f"{anatomy.norm} ({len(anatomy.final_norms)} outside the blocks)",
        "window": anatomy.window,
        "a prefix enters": WORDS[anatomy.prefix],
    }.items():
        if value is not None:
            yield f"{key:<16} {value}"
    for stack in anatomy.stacks:
        block = stack.blocks[0]
        yield f"\n{stack.kind} of {stack.depth} layers, {len(stack.blocks)} blocks, the first: {block.name}"
        for attention, title in zip(block.attentions(), ("attention", "cross-attention"), strict=False):
            heads = f"{attention.heads} heads of {attention.head_size}"
            yield f"  {title}: {heads}, {attention.kv_heads} of keys and values"
            for role, projection in attention.projections().items():
                yield f"    {role:<7} {shown(projection, block.name)}"
        yield "  feed-forward" + (": a mixture of experts, used whole" if block.feed_forward.experts else "")
        roles: Mapping[Any, Any] = block.feed_forward.projections() or {"whole": block.feed_forward.outward}
        yield from (f"    {role:<7} {shown(projection, block.name)}" for role, projection in roles.items())
        yield "  norms: " + " ".join(short(norm, block.name) for norm in block.norms)


WORDS = {
    "cache": "through the key/value cache",
    "rows": "as further rows of what attention reads (there is no cache)",
}


def places(anatomy: Anatomy) -> str:
    """Table, bound and first id of the positions."""
    table = f" in {anatomy.position_embeddings}" if anatomy.position_embeddings else ""
    bound = f", {anatomy.max_positions} of them" if anatomy.max_positions else ", without a bound"
    return f"{table}{bound}" + (f", from id {anatomy.first_position} on" if anatomy.first_position else "")


def shown(projection: Projection, block: str) -> str:
    """Name within the block, and which outputs of a fused matrix."""
    rows = ", ".join(f"{a}:{b}" for a, b in projection.rows[:2]) + (", ..." if len(projection.rows) > 2 else "")
    return short(projection.name, block) + (f"  outputs {rows}" if rows else "")


def short(name: str, block: str) -> str:
    """A module's name within its block."""
    return re.sub(rf"^{re.escape(block)}\.", "", name)
