"""Tuners that can be held to a network's upper layers: `method.tuner.layers`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from peftbench.config.schema import matching

if TYPE_CHECKING:
    from peftbench.models.base import Backbone


def layer_range() -> Any:
    """The field `layers` of a tuner's options: `all` blocks, the `upper_half` of each stack, or its `last_N`. The
    backward pass ends at the first of them."""
    return matching(r"all|upper_half|last_[1-9]\d*", "all, upper_half or last_N, such as last_2", default="all")


def in_layers(backbone: Backbone, layers: str, names: Iterable[str]) -> list[str]:
    """Those of the full names that lie in the blocks that `layers` names.

    Raises:
        UsageError: `layers` is no such choice.
    """
    from peftbench.models.anatomy.choose import chosen_blocks

    blocks = tuple(f"{block.name}." for block in chosen_blocks(backbone.anatomy, layers))
    return [name for name in names if name.startswith(blocks)]
