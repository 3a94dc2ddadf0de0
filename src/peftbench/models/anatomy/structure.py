"""The names of a network's parts read off its structure: classes of modules, shapes, and the order in which they are
used in one forward pass on two tokens. The network may be on torch's meta device, where a pass costs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from peftbench.models.anatomy.names import Misfit, Names, bare, hidden_size, is_norm, out_features

ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
NAMED_ROLES = {
    "query": r"q|.*query.*|q_\w+|\w+_q",
    "key": r"k|.*key.*|k_\w+|\w+_k",
    "value": r"v|.*value.*|v_\w+|\w+_v",
}
GATE = re.compile(r".*gate.*|w1|wi_0", re.IGNORECASE)


@dataclass(frozen=True)
class Use:
    """One call of a module in the traced pass. Tensors are told apart by their storage's owner."""

    name: str
    module: nn.Module
    read: int
    wrote: int


def names_from_structure(model: PreTrainedModel) -> Names:
    """A description in the form of `architectures.yaml`.

    Raises:
        Misfit: the network is not built of attention and feed-forward, or cannot be traced.
    """
    stack = bare(model)
    uses = trace(stack)
    lists = block_lists(stack, uses)
    entries = [entry_of(name, stack, uses) for name in lists]
    return {
        "stacks": entries,
        "positions": positions_of(stack),
        "norm": norm_place(uses, lists, entries),
        **projection_of(model, uses, lists),
    }


def trace(stack: PreTrainedModel) -> list[Use]:
    """Every call of a module, in the order of their ends."""
    uses: list[Use] = []
    kept: list[Tensor] = []  # so that no two tensors get the same id

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tensors = [t for t in (first_tensor([*args, *kwargs.values()]), first_tensor([output])) if t is not None]
            if len(tensors) == 2:
                kept.extend(tensors)
                uses.append(Use(name, module, *(origin(t) for t in tensors)))

        return hook

    handles = [m.register_forward_hook(note(n), with_kwargs=True) for n, m in stack.named_modules() if n]
    try:
        # On the meta device some networks look at a mask's values, which are not there, and some at one they make.
        if reason := run_once(stack, masked=False):
            uses.clear()
            reason = run_once(stack, masked=True)
    finally:
        for handle in handles:
            handle.remove()
    if reason:
        raise Misfit(f"a forward pass on two tokens fails ({reason})")
    return uses


def run_once(stack: PreTrainedModel, masked: bool) -> str:
    """A forward pass on two tokens, leaving the mode of the network as it was; what went wrong, if anything did."""
    ids = torch.tensor([[1, 2]], device=stack.device)
    inputs = {"input_ids": ids} | ({"attention_mask": torch.ones_like(ids)} if masked else {})
    if stack.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    try:
        with evaluating(stack), torch.no_grad():
            stack(**inputs)
    except Exception as error:  # whatever a foreign network raises
        return f"{type(error).__name__}: {str(error)[:120]}"
    return ""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout inside."""
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


def first_tensor(values: Sequence[Any]) -> Tensor | None:
    """The first floating-point tensor among values and the tuples and outputs in them."""
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
        if isinstance(value, tuple | list | dict):
            inner = first_tensor(list(value.values()) if isinstance(value, dict) else value)
            if inner is not None:
                return inner
    return None


def origin(tensor: Tensor) -> int:
    """Equal for views of one tensor."""
    return id(tensor if tensor._base is None else tensor._base)


def is_matrix(module: nn.Module) -> bool:
    """Whether it is a linear map, GPT-2's transposed one included."""
    return isinstance(module, (nn.Linear, Conv1D))


def block_lists(stack: nn.Module, uses: Sequence[Use]) -> list[str]:
    """Names of the lists of blocks, in the order of use: the innermost lists of one class of module that is used, and
    that holds an attention and more matrices outside of it."""
    called = {use.name: i for i, use in reversed(list(enumerate(uses)))}
    found = {}
    for name, module in stack.named_modules():
        members = list(module) if isinstance(module, nn.ModuleList) else []
        if len({type(m) for m in members}) == 1 and f"{name}.0" in called and is_block(members[0]):
            found[name] = called[f"{name}.0"]
    innermost = [name for name in found if not any(other.startswith(f"{name}.") for other in found)]
    if not innermost:
        raise Misfit("no list of blocks with attention and feed-forward is in it")
    return sorted(innermost, key=found.__getitem__)


def is_block(module: nn.Module) -> bool:
    """Whether it holds an attention, and weights outside of it."""
    attentions = attentions_of(module)
    outside = [n for n, m in module.named_modules() if holds_weights(m) and not inside(n, attentions)]
    return bool(attentions) and bool(outside)


def holds_weights(module: nn.Module) -> bool:
    """A matrix, or a module with a tensor of matrices (experts)."""
    return is_matrix(module) or any(p.ndim == 3 for p in module.parameters(recurse=False))


def attentions_of(block: nn.Module) -> list[str]:
    """Names of the outermost modules in a block whose class is an attention's and that hold matrices."""
    found = [
        n for n, m in block.named_modules()
        if n and ATTENTION.search(type(m).__name__) and any(is_matrix(inner) for inner in m.modules())
    ]  # fmt: skip
    return [n for n in found if not any(n.startswith(f"{other}.") for other in found)]


def inside(name: str, holders: Sequence[str]) -> bool:
    """Whether a module is one of the holders, or in one; by their full names."""
    return any(name == holder or name.startswith(f"{holder}.") for holder in holders)


def entry_of(blocks: str, stack: nn.Module, uses: Sequence[Use]) -> dict[str, Any]:
    """The entry of one list of blocks, read off its first block."""
    first, block = f"{blocks}.0.", stack.get_submodule(f"{blocks}.0")
    matrices = [u for u in unique(uses) if u.name.startswith(first) and is_matrix(u.module)]
    attentions = [first + name for name in attentions_of(block)]
    order = sorted(attentions, key=lambda name: next(i for i, u in enumerate(uses) if inside(u.name, [name])))
    entry: dict[str, Any] = {"blocks": re.sub(r"\.\d+\.", ".#.", blocks)}
    for kind, name in zip(("attention", "cross"), order, strict=False):
        entry[kind] = attention_entry([u for u in matrices if inside(u.name, [name])], first)
    entry["ffn"] = ffn_entry([u for u in matrices if not inside(u.name, attentions)], block, first)
    repeats = sum(u.name == first[:-1] for u in uses)
    if repeats > 1:
        entry["shared"] = "num_hidden_layers"
    return entry


def unique(uses: Sequence[Use]) -> list[Use]:
    """The first use of each module."""
    return list({use.name: use for use in reversed(uses)}.values())[::-1]


def attention_entry(matrices: Sequence[Use], first: str) -> dict[str, Any]:
    """The last matrix is the output; those before it are query, key and value, by their names or by their order."""
    *inward, last = matrices
    output = {"output": last.name.removeprefix(first)}
    if len(inward) == 1:
        return {"qkv": inward[0].name.removeprefix(first), "fused": "unknown", **output}
    if len(inward) < 3:
        raise Misfit(
            f"`{last.name}`: the attention has {len(inward) + 1} matrices; four, or two with a fused one, are read"
        )
    roles = {}
    for i, (role, pattern) in enumerate(NAMED_ROLES.items()):
        short = [u for u in inward if re.fullmatch(pattern, u.name.rpartition(".")[2], re.IGNORECASE)]
        roles[role] = (short[0] if short else inward[i]).name.removeprefix(first)
    return roles | output


def ffn_entry(matrices: Sequence[Use], block: nn.Module, first: str) -> dict[str, Any]:
    """Two matrices, or three of which two read the same; else the module that holds the experts."""
    if len(matrices) not in (2, 3):
        experts = [n for n, m in block.named_modules() if any(p.ndim == 3 for p in m.parameters(recurse=False))]
        if not experts:
            raise Misfit(f"`{first}`: {len(matrices)} matrices beside the attention are no feed-forward")
        return {"experts": experts[0].rpartition(".")[0] or experts[0]}
    *inward, last = matrices
    names = [u.name.removeprefix(first) for u in inward]
    entry = {"in": names[-1], "out": last.name.removeprefix(first)}
    if len(inward) == 2:
        gates = [n for n in names if GATE.fullmatch(n.rpartition(".")[2])]
        gate = gates[0] if gates else names[0]
        return {"gate": gate, **entry, "in": next(n for n in names if n != gate)}
    fused = out_features(inward[0].module) == 2 * in_features(last.module)
    return {**entry, "fused": ["gate", "in"]} if fused else entry


def in_features(matrix: nn.Module) -> int:
    """Width of a linear map's input."""
    assert isinstance(matrix, (nn.Linear, Conv1D))
    return matrix.nx if isinstance(matrix, Conv1D) else matrix.in_features


def norm_place(uses: Sequence[Use], lists: Sequence[str], entries: Sequence[dict[str, Any]]) -> str:
    """`pre` where the last block's first matrices read what a norm of that block wrote, `post` where they read the
    stream, `both` where they do and the stream's summands are normalised too."""
    block = [u for u in uses if re.match(rf"{re.escape(lists[-1])}\.\d+\.", u.name)]
    last = max((int(u.name[len(lists[-1]) + 1 :].partition(".")[0]) for u in block), default=0)
    block = [u for u in block if u.name.startswith(f"{lists[-1]}.{last}.")]
    norms = [u for u in block if is_norm(u.module) and u.module.weight.shape[0] == widest(block)]  # type: ignore[union-attr, index]
    reads = {u.read for u in block if is_matrix(u.module)}
    feeding = [u for u in norms if u.wrote in reads]
    inner = entries[-1]["attention"]
    first = next(u for u in block if u.name.endswith("." + str(inner.get("qkv", inner.get("query")))))
    if not any(u.wrote == first.read for u in norms):
        return "post"
    return "pre" if len(feeding) == len(norms) else "both"


def widest(block: Sequence[Use]) -> int:
    """Channels of the widest norm: those over single heads are left out of account."""
    return max((int(u.module.weight.shape[0]) for u in block if is_norm(u.module)), default=0)  # type: ignore[union-attr, index, arg-type]


def positions_of(stack: PreTrainedModel) -> str:
    """By the classes of the modules that know positions."""
    if hasattr(stack, "build_alibi_tensor"):
        return "alibi"
    modules = dict(stack.named_modules())
    kinds = [type(m).__name__.lower() for m in modules.values()]
    if any("rotary" in k for k in kinds):
        return "rotary"
    tables = [m for n, m in modules.items() if isinstance(m, nn.Embedding) and re.search(r"position|wpe", n)]
    if tables:
        fixed = any("sinusoidal" in type(m).__name__.lower() for m in tables)
        return "sinusoidal" if fixed else "learned"
    if any(re.search(r"rel\w*_(embedding|bias|attention_bias)", n) for n in modules):
        return "relative"
    return "none"


def projection_of(model: PreTrainedModel, uses: Sequence[Use], lists: Sequence[str]) -> dict[str, str]:
    """The matrix between narrower word embeddings and the blocks."""
    width, word = hidden_size(model), model.get_input_embeddings()
    narrow = int(word.weight.shape[1])  # type: ignore[union-attr, index]
    for use in uses:
        outside = is_matrix(use.module) and not inside(use.name, lists) and narrow != width
        if outside and (in_features(use.module), out_features(use.module)) == (narrow, width):
            return {"projection": use.name}
    return {}
