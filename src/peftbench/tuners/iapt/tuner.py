"""IAPT, instruction-aware prompt tuning (Zhu et al., ACL 2024, arXiv 2405.18203).

In front of every block a small network reads the hidden states X (n, d) of the instruction and writes R soft tokens:

    H = X W_down + b_down              (n, k)
    U = softmax over n of (H W_sa)^T H (R, k)
    S = g(U) W_up + b_up               (R, d)

g is an element-wise rational function with coefficients of its own in each block. The block computes [S ; X]; behind it
the R positions are cut off, since the next block makes its own. No code was released. Our reading: the cutting, the
place of S in front of the text and visible to all of it, the initial values, no sharing between blocks by default, and
that the coefficients are trained together with the rest.

In generation the generators run once, when the prompt is read; then the tokens live in the key/value cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, PeftType, TaskType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone
from peftbench.models.checks import check_length
from peftbench.tuners.base import ParamGroups, TunerContext
from peftbench.tuners.extra_rows import call_with_rows, check_room, stack_of
from peftbench.tuners.hosted import HostedModel
from peftbench.tuners.iapt import IaptOptions
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.peft_types import register_type
from peftbench.tuners.positions import accepts_position_ids, positions_from_mask, with_places_in_front
from peftbench.tuners.soft_prompt_model import answer_starts

NUMERATOR = (0.0001447, 0.5, 0.39674, 0.2556, 0.14225, 0.039684, 0.0039771)
DENOMINATOR = (0.0, 0.51119, 0.0, 0.079367, 0.0)
"""Initial coefficients: a least-squares fit of GeLU on [-4, 4] in the form of `rational`, odd b set to 0. It is within
0.0005 of GeLU on [-3, 3]."""
INIT_STD = 0.02


@dataclass
class IaptConfig(PeftConfig):
    """peft's view of one IAPT adapter.

    Attributes:
        num_tokens: R, soft tokens a block.
        bottleneck: k.
        share_group: consecutive blocks that share W_down, b_down, W_up and b_up.
        init_seed: seed of the random initial values.
        target_modules: set by the tuner: the blocks.
    """

    num_tokens: int = 4
    bottleneck: int = 16
    share_group: int = 1
    init_seed: int = 0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.IAPT  # type: ignore[attr-defined]
        if self.task_type not in (TaskType.FEATURE_EXTRACTION, TaskType.SEQ_CLS, TaskType.CAUSAL_LM):
            raise ValueError(
                f"IAPT needs a task_type: FEATURE_EXTRACTION, SEQ_CLS or CAUSAL_LM; {self.task_type} given."
            )


def parameter_count(layers: int, d: int, k: int, tokens: int, share_group: int) -> int:
    """Trainable numbers: 2 d k + k + d for each group of blocks, k R + 12 for each block."""
    groups = -(-layers // share_group)
    return groups * (2 * d * k + k + d) + layers * (k * tokens + len(NUMERATOR) + len(DENOMINATOR))


def rational(z: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """sum_q a_q z^q / (1 + |sum_q b_q z^q|), element by element, in fp32: z^6 overflows half precision.

    `numerator` holds a_0 ... a_6, `denominator` b_1 ... b_5.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = z.float()
        powers = torch.stack([z**q for q in range(len(numerator))], dim=-1)
        above = powers @ numerator.float()
        below = powers[..., 1 : len(denominator) + 1] @ denominator.float()
        return above / (1 + below.abs())


@dataclass
class Reading:
    """What the blocks must know of the current forward pass; shared by all of them.

    Attributes:
        instruction: (batch, n) the tokens that the soft tokens are made from; None if they are in the cache already.
        answer_starts: (batch, 1) column of the first answer token, or None.
    """

    instruction: Tensor | None = None
    answer_starts: Tensor | None = None


class IaptLayer(nn.Module, BaseTunerLayer):
    """A block with the generator of its soft tokens."""

    adapter_layer_names: tuple[str, ...] = (
        "iapt_down", "iapt_down_bias", "iapt_up", "iapt_up_bias", "iapt_pool", "iapt_numerator", "iapt_denominator",
    )  # fmt: skip
    shared_names = adapter_layer_names[:4]

    def __init__(self, base_layer: nn.Module, width: int, reading: Reading) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.width = width
        self.reading = reading
        self.lenders: dict[str, tuple[IaptLayer]] = {}  # in a tuple, so that it is no child of this module
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())

    def __getattr__(self, name: str) -> Any:
        """A stack may ask its blocks for facts about themselves."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def update_layer(self, adapter_name: str, config: IaptConfig, index: int, lender: IaptLayer | None) -> None:
        """Add an adapter. `lender`: the block whose projections this one, number `index`, uses too."""
        generator = torch.Generator().manual_seed(config.init_seed * 1_000_003 + index)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator) * INIT_STD

        d, k = self.width, config.bottleneck
        values = {
            "iapt_pool": normal(k, config.num_tokens),
            "iapt_numerator": torch.tensor(NUMERATOR),
            "iapt_denominator": torch.tensor(DENOMINATOR),
        }
        if lender is None:
            values |= {
                "iapt_down": normal(d, k),
                "iapt_down_bias": torch.zeros(k),
                "iapt_up": normal(k, d),
                "iapt_up_bias": torch.zeros(d),
            }
        else:
            self.lenders[adapter_name] = (lender,)
        device = next(self.base_layer.parameters()).device
        for name, value in values.items():
            getattr(self, name)[adapter_name] = nn.Parameter(value.to(device))

    def soft_tokens(self, hidden: Tensor, instruction: Tensor) -> Tensor:
        """(batch, R, d) from hidden states (batch, n, d) and the (batch, n) mask of the instruction."""
        name = self.active_adapters[0]
        home = self.lenders[name][0] if name in self.lenders else self
        down, down_bias, up, up_bias = (getattr(home, n)[name] for n in self.shared_names)
        narrow = hidden.to(down.dtype) @ down + down_bias
        scores = (narrow @ self.iapt_pool[name]).float().masked_fill(~instruction.unsqueeze(-1), float("-inf"))
        pooled = scores.softmax(1).transpose(1, 2) @ narrow.float()
        return rational(pooled, self.iapt_numerator[name], self.iapt_denominator[name]).to(up.dtype) @ up + up_bias

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.disable_adapters or self.reading.instruction is None:
            return self.base_layer(hidden_states, *args, **kwargs)
        rows = self.soft_tokens(hidden_states, self.reading.instruction)
        return call_with_rows(self.base_layer, rows, hidden_states, args, kwargs)


class IaptModel(HostedModel):
    """Wraps every block, and sees to it that masks and positions have room for the soft tokens.

    Outputs have the positions of the input. With `labels` (causal models), the soft tokens are made from what stands
    before the first label only, so that the answer cannot leak into them.
    """

    prefix = "iapt_"
    tuner_layer_cls = IaptLayer
    title = "An IAPT adapter"
    why_not_merged = "its soft tokens depend on the input"

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict) -> PeftConfig:
        assert isinstance(peft_config, IaptConfig)
        anatomy = anatomy_of(self.model)
        self.blocks = [block.name for block in anatomy.last.blocks]
        if not hasattr(self, "reading"):
            stack = stack_of(self.model)
            self.reading = Reading()
            self.causal = anatomy.last.causal
            self.rotated = anatomy.positions == "rotary" and accepts_position_ids(stack)
            self.hook = stack.register_forward_pre_hook(self._make_room, with_kwargs=True)
        peft_config.target_modules = [name.removeprefix(f"{anatomy.stack}.") for name in self.blocks]
        return peft_config

    def put(
        self, config: IaptConfig, adapter: str, target: nn.Module, name: str, parent: nn.Module, place: str
    ) -> None:
        index = self.blocks.index(place)
        first = index - index % config.share_group
        lender = None if first == index else self.model.get_submodule(self.blocks[first])
        assert lender is None or isinstance(lender, IaptLayer)
        layer = target
        if not isinstance(layer, IaptLayer):
            layer = IaptLayer(target, anatomy_of(self.model).hidden_size, self.reading)
            setattr(parent, name, layer)
        layer.update_layer(adapter, config, index, lender)

    def unload(self) -> nn.Module:
        """The base model as it was."""
        self.hook.remove()
        return super().unload()

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """peft's own looks for the weight of a child, which a block does not have."""
        setattr(parent, child_name, new_module)

    @property
    def layers(self) -> list[IaptLayer]:
        """The wrapped blocks, in order."""
        return [self.model.get_submodule(name) for name in self.blocks]  # type: ignore[misc]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's forward. The instruction ends at `answer_starts` (batch, 1), else at the first label."""
        starts, labels = kwargs.pop("answer_starts", None), kwargs.get("labels")
        if starts is None and labels is not None:
            starts = answer_starts(labels, kwargs.get("attention_mask"))
        self.reading.answer_starts = starts
        try:
            return self.model(*args, **kwargs)
        finally:
            self.reading.answer_starts = None

    def _make_room(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the stack runs: what the blocks must know, and positions and, behind a cache that begins with soft
        tokens, a mask that count them."""
        layer = self.layers[0]
        if layer.disable_adapters:
            return None
        config = self.peft_config[layer.active_adapters[0]]
        assert isinstance(config, IaptConfig)
        rows = config.num_tokens
        given = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        inputs = next(x for x in given if x is not None)
        queries, cache = inputs.shape[1], kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        mask, new = kwargs.get("attention_mask"), {}
        if mask is None:
            mask = torch.ones(len(inputs), queries + max(0, past - rows), dtype=torch.long, device=inputs.device)
        elif past:
            new["attention_mask"] = with_places_in_front(mask, rows)
        if mask.dim() != 2 and not (past and mask.dim() == 4):
            raise ValueError(f"IAPT needs an attention_mask of shape (batch, n), found {tuple(mask.shape)}.")
        self.reading.instruction = None if past else self._instruction(mask)
        if self.causal or self.rotated:
            new["position_ids"] = self._positions(kwargs.get("position_ids"), mask, queries, rows, first=not past)
        return args, {**kwargs, **new}

    def _instruction(self, mask: Tensor) -> Tensor:
        """(batch, n) true for the real tokens before the answer."""
        instruction = mask.bool()
        if self.reading.answer_starts is not None:
            columns = torch.arange(mask.shape[1], device=mask.device)
            instruction = instruction & (columns < self.reading.answer_starts)
        return instruction

    def _positions(self, given: Tensor | None, mask: Tensor, queries: int, rows: int, first: bool) -> Tensor:
        """(batch, queries) positions of the text. With rotary positions the soft tokens take 0 ... R-1 in every
        block, the text comes behind them, and at the first pass the tables are made for both: (batch, R + queries)."""
        positions = positions_from_mask(mask)[:, -queries:] if given is None else given.expand(len(mask), -1)
        if not self.rotated:
            return positions
        own = torch.arange(rows if first else 0, device=mask.device).expand(len(mask), -1)
        return torch.cat([own, positions + rows], dim=1)


register_type(IaptConfig, IaptModel)


class IaptTuner(PeftTuner):
    """IAPT in a benchmark run. Groups `generator` (projections and pooling) and `activation` (coefficients of g)."""

    families = frozenset({"encoder", "causal"})
    why_families = "soft tokens are made from the instruction, and the decoder of an encoder-decoder reads the answer"
    needs_answer_starts = True
    budget_knob = "bottleneck"
    cfg: IaptOptions

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        rows = self.cfg.num_tokens
        check_room(backbone, context.max_length + rows)
        if backbone.anatomy.positions == "rotary":
            check_length(backbone, context.max_length, rows, "method.tuner.num_tokens")

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        self.check(backbone, context)
        config = IaptConfig(
            task_type=task_type(backbone),
            num_tokens=self.cfg.num_tokens,
            bottleneck=self.cfg.bottleneck,
            share_group=self.cfg.share_group,
            init_seed=context.seed,
        )
        return wrap(backbone, config, context.seed)

    def param_groups(self, model: nn.Module) -> ParamGroups:
        groups: ParamGroups = {"generator": [], "activation": []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_coefficient = "iapt_numerator" in name or "iapt_denominator" in name
                groups["activation" if is_coefficient else "generator"].append(parameter)
        return groups

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        cfg = self.cfg
        layers = len(backbone.anatomy.last.blocks)
        return parameter_count(layers, backbone.hidden_size, cfg.bottleneck, cfg.num_tokens, cfg.share_group)
