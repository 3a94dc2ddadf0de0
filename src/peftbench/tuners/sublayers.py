"""Where the blocks of a Transformer are, and in each block its attention and its feed-forward sub-layer.

Architectures name these modules differently but build them alike: a sub-layer begins with a matrix that reads its
input (the `inlet`) and ends with a matrix back to the width of the network (the `outlet`), before dropout and the
residual sum. Whatever sits beside or behind a sub-layer needs no more than these two names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import UsageError

Place = Literal["attention", "ffn"]
PLACES: tuple[Place, ...] = ("attention", "ffn")


@dataclass(frozen=True)
class Layout:
    """Names of one kin of architectures.

    Attributes:
        kin: for messages.
        block: regular expression of a block's name within its stack.
        within: regular expression of what stands between a block's name and those of its matrices.
        outlets: last matrix of each sub-layer.
        inlets: first matrix of each sub-layer; the first of these names that exists counts.
    """

    kin: str
    block: str
    outlets: dict[Place, str]
    inlets: dict[Place, tuple[str, ...]]
    within: str = r"\."


LAYOUTS = (
    Layout(
        "BERT, RoBERTa, ELECTRA, DeBERTa",
        r"layer\.\d+",
        outlets={"attention": "attention.output.dense", "ffn": "output.dense"},
        inlets={
            "attention": ("attention.self.query", "attention.self.query_proj", "attention.self.in_proj"),
            "ffn": ("intermediate.dense",),
        },
    ),
    Layout(
        "T5",
        r"block\.\d+",
        outlets={"attention": "SelfAttention.o", "ffn": "DenseReluDense.wo"},
        inlets={"attention": ("SelfAttention.q",), "ffn": ("DenseReluDense.wi", "DenseReluDense.wi_0")},
        within=r"\.layer\.\d+\.",
    ),
    Layout(
        "Llama, Mistral, Qwen",
        r"layers\.\d+",
        outlets={"attention": "self_attn.o_proj", "ffn": "mlp.down_proj"},
        inlets={"attention": ("self_attn.q_proj",), "ffn": ("mlp.gate_proj",)},
    ),
    Layout(
        "GPT-2",
        r"h\.\d+",
        outlets={"attention": "attn.c_proj", "ffn": "mlp.c_proj"},
        inlets={"attention": ("attn.c_attn",), "ffn": ("mlp.c_fc",)},
    ),
)


@dataclass(frozen=True)
class SubLayer:
    """One sub-layer. In an encoder-decoder's decoder the attention is the self-attention."""

    place: Place
    inlet: str
    """Full name of the matrix that reads the sub-layer's input: the normalised one in a pre-norm network."""
    outlet: str
    """Full name of the matrix whose output is the sub-layer's, before dropout and the residual sum."""


def find_layout(model: nn.Module) -> Layout:
    """The layout that `model` has.

    Raises:
        UsageError: its architecture is built in none of the known ways.
    """
    names = [name for name, _ in model.named_modules()]
    for layout in LAYOUTS:
        if all(any(re.fullmatch(outlet_pattern(layout, (p,)), n) for n in names) for p in PLACES):
            return layout
    architecture = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    known = "; ".join(layout.kin for layout in LAYOUTS)
    raise UsageError(
        f"method.tuner: attention and feed-forward of the architecture `{architecture}` are not where this tuner looks "
        f"for them. It knows those built like {known}. Take a backbone of that kind, or a method such as lora, whose "
        "method.tuner.target_modules can be given."
    )


def outlet_pattern(layout: Layout, places: tuple[Place, ...]) -> str:
    """Regular expression that matches the whole name of every outlet of `places`."""
    outlets = "|".join(re.escape(layout.outlets[p]) for p in places)
    return rf"(.*\.)?{layout.block}{layout.within}({outlets})"


def find_sublayers(model: nn.Module) -> list[SubLayer]:
    """All sub-layers in the order of computation. What a tuner has put in place of an outlet counts as it."""
    layout = find_layout(model)
    modules = dict(model.named_modules())
    found = []
    for name in modules:
        for place in PLACES:
            if re.fullmatch(outlet_pattern(layout, (place,)), name):
                stem = name.removesuffix(layout.outlets[place])
                inlet = next(stem + inlet for inlet in layout.inlets[place] if stem + inlet in modules)
                found.append(SubLayer(place, inlet, name))
    return found


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Full name -> block, in the order of computation: an encoder-decoder's encoder before its decoder."""
    block = rf"(.*\.)?{find_layout(model).block}"
    return {name: module for name, module in model.named_modules() if re.fullmatch(block, name)}


def find_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Full name -> normalisation layer of the backbone. A copy that a tuner trains in its place does not count."""
    return {
        name.removesuffix(".original_module"): module
        for name, module in model.named_modules()
        if is_norm(module) and ".modules_to_save." not in name and ".adapter_" not in name
    }


def is_norm(module: nn.Module) -> bool:
    """LayerNorm, RMSNorm and their relatives: one gain a channel."""
    weight = getattr(module, "weight", None)
    return "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1


def out_features(matrix: nn.Module) -> int:
    """Width of a linear map's output; GPT-2 stores its matrices transposed."""
    assert isinstance(matrix, (nn.Linear, Conv1D))
    return matrix.nf if isinstance(matrix, Conv1D) else matrix.out_features
