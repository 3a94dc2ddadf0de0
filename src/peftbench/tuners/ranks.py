"""The ranks of products that tuners train, and what none can exceed: a product of factors (out, r) and (r, in) has a
rank of at most min(out, in), so that a greater r adds parameters and no update that it would not have had. Free of
torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from peftbench.errors import UsageError


@dataclass(frozen=True)
class Rank:
    """One rank of a tuner.

    Attributes:
        key: that sets it, below `method.tuner`.
        value: what it is.
        limit: the rank that what is trained can have.
        product: what that is, for a message.
    """

    key: str
    value: int
    limit: int
    product: str


def rank_of_updates(key: str, value: int, shapes: Mapping[str, tuple[int, int]]) -> list[Rank]:
    """The rank of the update of each matrix, held against the smallest of them.

    Args:
        shapes: name -> (out, in).
    """
    if not shapes:
        return []
    name, (out, inner) = min(shapes.items(), key=lambda item: min(item[1]))
    return [Rank(key, value, min(out, inner), f"an update of `{name}` ({out} x {inner})")]


def excess(ranks: Iterable[Rank]) -> Rank | None:
    """The first that is above what its product can have, if there is one."""
    return next((rank for rank in ranks if rank.value > rank.limit), None)


def check_ranks(ranks: Iterable[Rank], model: str) -> None:
    """Raises UsageError if one is above what its product can have on this model."""
    if found := excess(ranks):
        raise UsageError(
            f"method.tuner.{found.key}={found.value}: on model={model}, {found.product} has a rank of at most "
            f"{found.limit}. Set method.tuner.{found.key}={found.limit} or less."
        )
