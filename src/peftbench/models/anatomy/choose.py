"""Choosing among a network's parts: matrices by their role, the upper blocks, names that mean exactly them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.anatomy.names import is_norm, own, unwrapped
from peftbench.models.anatomy.parts import TARGETS, Anatomy, Block

LAST = re.compile(r"last_([1-9]\d*)")


def chosen_blocks(anatomy: Anatomy, layers: str) -> list[Block]:
    """The blocks that `layers` names: `all`, `upper_half` (rounded up) or `last_N`, of each stack.

    Raises:
        UsageError: it is none of these, or a stack has fewer.
    """
    if layers == "all":
        return anatomy.blocks()
    last = LAST.fullmatch(layers)
    if layers != "upper_half" and last is None:
        raise UsageError(f"method.tuner.layers={layers}: use all, upper_half or last_N, such as last_2.")
    found: list[Block] = []
    for stack in anatomy.stacks:
        number = -(-len(stack.blocks) // 2) if last is None else int(last[1])
        if number > len(stack.blocks):
            raise UsageError(
                f"method.tuner.layers={layers}: the {stack.kind} has {len(stack.blocks)} blocks of its own. "
                f"Use last_{len(stack.blocks)} or less."
            )
        found += stack.blocks[-number:]
    return found


def names_of_roles(model: PreTrainedModel, target: str, layers: str = "all") -> list[str]:
    """Names of the matrices of a target, as short as they are unmistakable; of a fused matrix its own name, once.

    Raises:
        UsageError: the network's parts are not known, or none of them has the role.
    """
    anatomy = anatomy_of(model)
    roles = TARGETS[target]
    names: list[str] = []
    for block in chosen_blocks(anatomy, layers):
        parts = [p for a in block.attentions() for p in a.projections().items()]
        parts += list(block.feed_forward.projections().items())
        names += [projection.name for role, projection in parts if role in roles]
    if not names:
        raise UsageError(
            f"method.tuner.target={target}: a `{anatomy.architecture}` network has no matrix of that role; experts' "
            "weights are no matrices of their own. Use method.tuner.target=attention.all."
        )
    return unmistakable(model, dict.fromkeys(names))


def unmistakable(model: PreTrainedModel, wanted: Iterable[str]) -> list[str]:
    """Names for exactly these modules by peft's rule (a name, or the end of one): those within a block where no other
    module's name ends like them, else those within the bare network."""
    anatomy, names = anatomy_of(model), list(wanted)
    within = [block.within(n) for n in names for block in anatomy.blocks() if n.startswith(f"{block.name}.")]
    short = list(dict.fromkeys(within))
    everything = [name.removesuffix(".base_layer") for name, _ in model.named_modules() if own(name)]
    matched = {name for name in everything if any(is_target(name, end) for end in short)}
    if len(within) == len(names) and matched == set(names):
        return short
    return [name.removeprefix(f"{anatomy.stack}.") for name in names]


def is_target(full_name: str, target: str) -> bool:
    """peft's rule: a name, or the end of one after a dot. A matrix that peft has wrapped already counts as itself."""
    full_name = full_name.removesuffix(".base_layer")
    return full_name == target or full_name.endswith(f".{target}")


def is_matrix(module: nn.Module) -> bool:
    """A weight matrix that LoRA can sit beside: a Linear, or GPT-2's transposed one."""
    return isinstance(module, (nn.Linear, Conv1D))


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """Full name -> normalisation layer of the backbone. A copy that a tuner trains in its place does not count."""
    return {
        re.sub(r"\.(original_module|base_layer)$", "", name): module
        for name, module in model.named_modules()
        if is_norm(module) and own(name)
    }


__all__ = ["chosen_blocks", "is_norm", "is_target", "names_of_roles", "norms_of", "unmistakable", "unwrapped"]
