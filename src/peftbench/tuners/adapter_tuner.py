"""Bottleneck adapters: Houlsby, Pfeiffer, parallel, LiST's lite, Compacter, and convolution adapters.

All of them are one peft tuner, ADAPTER: a small network (`adapter_blocks`) at the attention and/or the feed-forward
sub-layer of every block of the frozen backbone. They differ in the network, in the sub-layers, and in what the
network reads and where its output goes. With x the sub-layer's input and y its output, before dropout and the
residual sum, the new output is

    sequential:  s block(y) (+ y if `residual`)
    parallel:    y + s block(x) (+ x if `residual`)

The sub-layer's last matrix is wrapped, so that a block runs wherever the backbone runs it: in `generate`, with a
cache, under gradient checkpointing.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from peftbench.models.anatomy import anatomy_of
from peftbench.models.anatomy.choose import chosen_blocks, norms_of
from peftbench.models.anatomy.parts import PLACES, Anatomy, SubLayer
from peftbench.models.base import Backbone
from peftbench.tuners.adapter_blocks import Bottleneck, Compacter, Conformer, Convpass, Lite, Masked
from peftbench.tuners.adapter_options import AdapterOptions
from peftbench.tuners.base import ParamGroups, TunerContext
from peftbench.tuners.hosted import HostedModel
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.peft_types import register_type
from peftbench.tuners.positions import count_real_positions

SCORES = "_scores"
"""End of the names of scores that a mask is made from."""
CONVOLUTIONS = ("conformer", "convpass")
"""Blocks that look at neighbouring tokens."""


@dataclass
class AdapterConfig(PeftConfig):
    """peft's view of one adapter; everything needed to rebuild it is in `adapter_config.json`.

    Attributes:
        block: `bottleneck`, `lite`, `compacter`, `masked`, `conformer` or `convpass`.
        bottleneck: b, width inside the block.
        places: sub-layers that get a block: `attention`, `ffn`.
        mode: `sequential` or `parallel`.
        residual: add what the block reads to what it gives.
        scale: s.
        activation: of `bottleneck` and `compacter`.
        init_std: of `lite` and `bottleneck`: spread of both matrices at the start. 0: a bottleneck's own start.
        kaiming: of `bottleneck`: W_down from Kaiming's uniform distribution instead of N(0, 0.02^2).
        kernel: tokens that a convolution sees.
        dropout: inside the block.
        phm_dim: n of `compacter`.
        phm_rank: rank of its s_i t_i.
        keep: of `masked`: share of a matrix that a block's mask keeps.
        layers: blocks that have one, see `peftbench.tuners.layerwise`.
        target_modules: set by the tuner: the last matrices of the chosen sub-layers.
        modules_to_save: full names of norms that are trained along.
    """

    block: str = "bottleneck"
    bottleneck: int = 48
    places: list[str] = field(default_factory=lambda: ["ffn"])
    mode: str = "sequential"
    residual: bool = True
    scale: float = 1.0
    activation: str = "relu"
    init_std: float = 0.0
    kaiming: bool = False
    kernel: int = 5
    dropout: float = 0.0
    phm_dim: int = 4
    phm_rank: int = 1
    keep: float = 0.5
    layers: str = "all"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.ADAPTER  # type: ignore[attr-defined]
        if self.block not in BLOCK_COUNTS or self.mode not in ("sequential", "parallel"):
            raise ValueError(f"adapter: block={self.block}, mode={self.mode}: no such choice.")
        if not self.places or not set(self.places) <= set(PLACES):
            raise ValueError(f"adapter: places={self.places}: choose some of {', '.join(PLACES)}.")
        if self.block in CONVOLUTIONS and self.kernel % 2 == 0:
            raise ValueError(f"adapter: kernel={self.kernel}: an odd number has a middle token.")


BLOCK_COUNTS = {
    "bottleneck": lambda d, c: 2 * d * c.bottleneck + c.bottleneck + d,
    "lite": lambda d, c: 2 * d * c.bottleneck,
    "compacter": lambda d, c: (2 * c.phm_rank + 1) * (d + c.bottleneck),
    "masked": lambda d, c: 2 * d * c.bottleneck,
    "conformer": lambda d, c: 3 * d * c.bottleneck + c.bottleneck * (c.kernel + 5) + 3 * d,
    "convpass": lambda d, c: (2 * d + 2) * c.bottleneck + d + c.kernel * c.bottleneck**2,
}
"""Block -> trainable numbers of one of it, at width d."""
SHARED_COUNTS = {
    "compacter": lambda d, c: c.phm_dim**3,
    "masked": lambda d, c: 2 * d * c.bottleneck + c.bottleneck + d,
}
"""Block -> trainable numbers that all of them share."""


def make_block(d: int, config: AdapterConfig, first: nn.Module | None) -> nn.Module:
    """A fresh block of width `d`; `first` is the adapter's first one, if there is one yet."""
    b = config.bottleneck
    match config.block:
        case "lite":
            return Lite(d, b, config.init_std)
        case "compacter":
            like = cast(Compacter | None, first)
            return Compacter(d, b, config.phm_dim, config.phm_rank, config.activation, like)
        case "masked":
            return Masked(d, b, config.activation, config.keep, cast(Masked | None, first))
        case "conformer":
            return Conformer(d, b, config.kernel, config.dropout)
        case "convpass":
            return Convpass(d, b, config.kernel, config.dropout)
    return Bottleneck(d, b, config.activation, config.dropout, config.kaiming, config.init_std)


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A sub-layer's last matrix with the adapters' blocks at it.

    The sub-layer's input comes from a hook on its first matrix, because no module has both at hand.
    """

    adapter_layer_names = ("adapter_block",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.configs: dict[str, AdapterConfig] = {}
        self.adapter_block = nn.ModuleDict()
        self.mask: Tensor | None = None
        """(batch, n), 1 at real tokens: set from outside before each pass where a block is a convolution."""
        self._input: Tensor | None = None
        self._hook: RemovableHandle | None = None

    def update_layer(
        self, name: str, config: AdapterConfig, width: int, inlet: nn.Module, first: nn.Module | None
    ) -> None:
        """Add an adapter.

        Args:
            name: the adapter's.
            config: the adapter's.
            width: d, of the sub-layer's output.
            inlet: first matrix of the sub-layer.
            first: the adapter's block at the first wrapped sub-layer; None if that is this one.
        """
        base = self.get_base_layer()
        self.configs[name] = config
        self.adapter_block[name] = make_block(width, config, first).to(next(base.parameters()).device)
        if config.mode == "parallel" and self._hook is None:
            # A bound method: a deep copy of the network binds it to the copy of this layer.
            self._hook = inlet.register_forward_pre_hook(self._remember_input)

    def _remember_input(self, inlet: nn.Module, args: tuple[Any, ...]) -> None:
        self._input = args[0]

    def detach_from_base(self) -> None:
        """Take the hook off the base model."""
        if self._hook is not None:
            self._hook.remove()

    def forward(self, inner: Tensor) -> Tensor:
        """(batch, n, inner width) -> (batch, n, d)."""
        y = self.base_layer(inner)
        x, self._input = self._input, None
        if self.disable_adapters:
            return y
        for name in self.active_adapters:
            if name in self.adapter_block:
                y = self._adapt(name, x, y)
        return y

    def _adapt(self, name: str, x: Tensor | None, y: Tensor) -> Tensor:
        config, block = self.configs[name], self.adapter_block[name]
        parallel = config.mode == "parallel"
        source = x if parallel else y
        assert source is not None
        if not torch.is_autocast_enabled(source.device.type):
            source = source.to(torch.float32)  # of the block's weights, whatever the backbone's
        change = block(source, self.mask)
        if config.scale != 1:
            change = config.scale * change
        if config.residual:
            change = source + change
        return (y + change if parallel else change).to(y.dtype)


class AdapterModel(HostedModel):
    """Puts the blocks in, and tells the convolutions among them where the padding is."""

    prefix = "adapter_"
    tuner_layer_cls = AdapterLayer
    title = "A bottleneck adapter"
    why_not_merged = "it is no change of any weight"

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        assert isinstance(peft_config, AdapterConfig)
        if peft_config.target_modules is None:
            anatomy = anatomy_of(self.model)
            outlets = [s.outlet for s in adapted(anatomy, peft_config)]
            peft_config.target_modules = [name.removeprefix(f"{anatomy.stack}.") for name in outlets]
        return peft_config

    def put(
        self, config: AdapterConfig, adapter: str, target: nn.Module, name: str, parent: nn.Module, place: str
    ) -> None:
        blocks = [layer.adapter_block for layer in self.layers()]
        first = next((b[adapter] for b in blocks if adapter in b), None)
        anatomy = anatomy_of(self.model)
        inlet = self.model.get_submodule(next(s.inlet for s in anatomy.sublayers() if s.outlet == place))
        layer = target if isinstance(target, AdapterLayer) else AdapterLayer(target)
        layer.update_layer(adapter, config, anatomy.hidden_size, inlet, first)
        setattr(parent, name, layer)

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        assert isinstance(config, AdapterConfig)
        if config.block in CONVOLUTIONS and not hasattr(self, "_mask_hook"):
            # generate calls the encoder of an encoder-decoder by itself, so that is where its mask passes by.
            assert isinstance(model, PreTrainedModel)
            stack = model.get_encoder() if model.config.is_encoder_decoder else model
            self._mask_hook = stack.register_forward_pre_hook(self._remember_mask, with_kwargs=True)

    def _remember_mask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments.get("attention_mask")
        if mask is not None and mask.dim() != 2:
            raise ValueError(f"a convolution adapter needs an attention_mask (batch, n), found {tuple(mask.shape)}.")
        for layer in self.layers():
            layer.mask = mask

    def layers(self) -> list[AdapterLayer]:
        """The wrapped matrices, in the order of computation."""
        return [m for m in self.model.modules() if isinstance(m, AdapterLayer)]

    def unload(self) -> nn.Module:
        """The base model without adapters and without their hooks."""
        for layer in self.layers():
            layer.detach_from_base()
        if hasattr(self, "_mask_hook"):
            self._mask_hook.remove()
        return super().unload()


def adapted(anatomy: Anatomy, config: AdapterConfig) -> list[SubLayer]:
    """The sub-layers that get a block. Of an encoder-decoder only the encoder's get a convolution: a decoder must not
    see the tokens to come, and its cache does not hold what a convolution needs."""
    causal = {block.name for stack in anatomy.stacks if stack.causal for block in stack.blocks}
    blocks = [
        b for b in chosen_blocks(anatomy, config.layers) if config.block not in CONVOLUTIONS or b.name not in causal
    ]
    return [sublayer for block in blocks for sublayer in block.sublayers() if sublayer.place in config.places]


register_type(AdapterConfig, AdapterModel)


class AdapterTuner(PeftTuner):
    """The tuner of all adapters; what tells them apart is in their options, `AdapterOptions.adapter`. Group `adapter`,
    which trained norms belong to as well; the scores of masks are the group `mask`."""

    group = "adapter"
    cfg: AdapterOptions

    def __init__(self, cfg: AdapterOptions) -> None:
        super().__init__(cfg)
        self.families = cfg.families  # type: ignore[misc]
        self.why_families = cfg.why_families
        self.budget_knob = cfg.budget_knob
        self.identity_at_start = cfg.identity_at_start

    def param_groups(self, model: nn.Module) -> ParamGroups:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        scores = [p for name, p in named if name.endswith(SCORES)]
        rest = [p for name, p in named if not name.endswith(SCORES)]
        return {self.group: rest, **({"mask": scores} if scores else {})}

    def adapter(self, width: int) -> AdapterConfig:
        """The adapter at a backbone's `width`, without what is read off the backbone's modules.

        Raises:
            UsageError: the knobs do not fit each other or the width.
        """
        return AdapterConfig(**self.cfg.adapter(width), layers=self.cfg.layers)

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        self.cfg.check()
        adapted(backbone.anatomy, self.adapter(backbone.hidden_size))

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        self.check(backbone, context)
        config = self.adapter(backbone.hidden_size)
        config.task_type = task_type(backbone)
        if self.cfg.train_norms:
            config.modules_to_save = list(norms_of(backbone.model))
        if backbone.family == "causal":
            count_real_positions(backbone.model)
        model = wrap(backbone, config, context.seed)
        for name in config.modules_to_save or []:
            copies = cast(nn.ModuleDict, backbone.model.get_submodule(name).modules_to_save)
            train_in_fp32(copies["default"])
        return model

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        """Those of one block, times the sub-layers that have one; what blocks share; the norms trained along."""
        config = self.adapter(backbone.hidden_size)
        shared = SHARED_COUNTS[config.block](backbone.hidden_size, config) if config.block in SHARED_COUNTS else 0
        norms = sum(p.numel() for n in norms_of(backbone.model).values() for p in n.parameters())
        return (
            len(adapted(backbone.anatomy, config)) * BLOCK_COUNTS[config.block](backbone.hidden_size, config)
            + shared
            + (norms if self.cfg.train_norms else 0)
        )


def train_in_fp32(norm: nn.Module) -> None:
    """Keep a trained norm of a half-precision backbone in fp32, between casts: bf16 would lose small steps."""
    dtype = next(norm.parameters()).dtype
    if dtype != torch.float32:
        norm.float()
        norm.register_forward_pre_hook(partial(cast_input, torch.float32))
        norm.register_forward_hook(partial(cast_output, dtype))


def cast_input(dtype: torch.dtype, norm: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Forward pre-hook."""
    return tuple(x.to(dtype) for x in args)


def cast_output(dtype: torch.dtype, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook."""
    return output.to(dtype)
