"""Prefix tuning (Li and Liang, ACL 2021, arXiv 2101.00190); without its projection and with a head on an encoder it is
P-tuning v2 (Liu et al., ACL 2022, arXiv 2110.07602).

Parameters and files are peft's; the forward pass is ours. peft's drops position ids, so that a left-padded text gets
other answers the more padding its batch has, and it cannot go on training what it has saved. On unpadded and
right-padded texts the two give the same logits (a test compares them).

In an encoder-decoder the prefix stands in the decoder's self-attention only; the library `adapters` also puts prefixes
into the encoder and the cross-attention, which is another method of the same name. peft 0.21 does the former, but deals
the numbers out wrongly there: layers i and i + L/2 get the same ones and half of them reach no layer. Here every layer
has its own, and the prefix is saved without peft's config, since peft would read it without a word and otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.prefix_tuning import PrefixEncoder
from torch import Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.base import Backbone
from peftbench.models.checks import check_length
from peftbench.tuners.adapter_files import read_module, read_tensors, write_adapter, write_module
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.extra_rows import check_window, stack_of
from peftbench.tuners.peft_adapter import task_type
from peftbench.tuners.positions import accepts_position_ids, positions_from_mask, with_places_in_front
from peftbench.tuners.prefix_tuning import PrefixTuningOptions
from peftbench.tuners.prefix_tuning.rows import prefix_rows, projected_tokens
from peftbench.tuners.prompt_init import initial_token_ids

ENCODER_FILE = "prefix_encoder.safetensors"
"""What the prefix is computed from, where that is more than the prefix itself: needed to train on."""


@dataclass(frozen=True)
class Shape:
    """Of the keys and values of one layer: `heads` x `width` numbers a position (key/value heads, if grouped)."""

    layers: int
    heads: int
    width: int


class PrefixedModel(nn.Module):
    """A backbone whose attention in every layer begins with l trained keys and values.

    The outputs have the positions of the input. Masks and position ids are given without the prefix; here they are
    extended by it, in each call of the stack, so that `generate` needs nothing of its own. Keys and values enter by the
    cache; in a network that has none, as `PrefixRows`.
    """

    def __init__(self, model: PreTrainedModel, peft_config: peft.PrefixTuningConfig, shape: Shape) -> None:
        super().__init__()
        self.model = model
        self.encoder = encoder = PrefixEncoder(peft_config)
        self.peft_config = peft_config
        self.shape = shape
        self.enabled = True
        self.length = encoder.embedding.num_embeddings
        stack = stack_of(model)
        self.numbered = accepts_position_ids(stack) and not has_own_numbering(stack)
        self.rows = prefix_rows(model) if anatomy_of(model).prefix == "rows" else []
        stack.register_forward_pre_hook(self._put_rows if self.rows else self._put_prefix, with_kwargs=True)

    @property
    def config(self) -> Any:
        """The backbone's."""
        return self.model.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's generate."""
        return self.model.generate(*args, **kwargs)  # type: ignore[operator]

    def prefix(self) -> Tensor:
        """(l, 2 x layers x heads x width), the keys and values of one layer after those of the other."""
        indices = torch.arange(self.length, device=self.encoder.embedding.weight.device)
        return self.encoder(indices.unsqueeze(0))[0]

    def _put_rows(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the stack runs: give each attention its prefix, of every layer that it serves."""
        refuse_checkpointing(stack)
        layers = split_layers(self.prefix().to(self._dtype()), self.shape) if self.enabled else []
        for rows in self.rows:
            rows.layers, layers = layers[: rows.passes], layers[rows.passes :]

    def _put_prefix(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the stack runs: fill an empty cache with the prefix, and make mask and positions know of it."""
        if not self.enabled:
            return None
        refuse_checkpointing(stack)
        new, mask = dict(kwargs), kwargs.get("attention_mask")
        given = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        inputs = next(x for x in given if x is not None)
        new["past_key_values"] = self._filled(kwargs.get("past_key_values"), len(inputs))
        positions = kwargs.get("position_ids")
        if mask is not None:
            begun = kwargs.get("past_key_values") is not None and kwargs["past_key_values"].get_seq_length() > 0
            if mask.dim() != 2 and not (begun and mask.dim() == 4):
                raise ValueError(f"prefix tuning needs an attention_mask (batch, n), found {tuple(mask.shape)}.")
            new["attention_mask"] = with_places_in_front(mask, self.length)
            if mask.dim() == 2 and positions is None and self.numbered:
                positions = positions_from_mask(mask)[:, -inputs.shape[1] :]
        if positions is not None:
            new["position_ids"] = positions + self.length
        return args, new

    def _filled(self, cache: Cache | None, batch: int) -> Cache:
        """The cache, with the prefix at its start."""
        if cache is None:
            cache = DynamicCache()
            if self.model.config.is_encoder_decoder:
                cache = EncoderDecoderCache(cache, DynamicCache())
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        if own.get_seq_length() == 0:
            for layer, (keys, values) in enumerate(split_layers(self.prefix().to(self._dtype()), self.shape)):
                own.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), layer)
        return cache

    def _dtype(self) -> torch.dtype:
        """That of the keys and values beside which the prefix stands."""
        device = self.encoder.embedding.weight.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.model.dtype

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within, the bare backbone answers."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True


def has_own_numbering(stack: nn.Module) -> bool:
    """Whether the embeddings number the positions behind the cache themselves (BERT and RoBERTa do)."""
    return hasattr(stack, "embeddings")


def refuse_checkpointing(stack: nn.Module) -> None:
    """Raises UsageError where activations are thrown away and computed again: the prefix is not there a second time."""
    if stack.training and getattr(stack, "gradient_checkpointing", False):
        raise UsageError(
            "trainer.gradient_checkpointing=true: layers are then run a second time in the backward pass, without the "
            "prefix. Set it to false, or use another method."
        )


def split_layers(prefix: Tensor, shape: Shape) -> list[tuple[Tensor, Tensor]]:
    """(l, 2 x layers x heads x width) -> keys and values (1, heads, l, width) of each layer."""
    parts = prefix.view(len(prefix), 2 * shape.layers, shape.heads, shape.width).permute(1, 2, 0, 3).unsqueeze(1)
    return list(zip(parts[::2], parts[1::2], strict=True))


def join_layers(cache: Cache) -> Tensor:
    """The inverse of `split_layers`, of a cache of one text."""
    pairs: list[Any] = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
    parts = [part[0] for pair in pairs for part in pair]
    return torch.stack(parts).permute(2, 0, 1, 3).flatten(1)


def shape_of(backbone: Backbone) -> Shape:
    """Layers of the stack with the prefix, key/value heads and their width."""
    stack = backbone.anatomy.last
    attention = stack.blocks[0].attention
    return Shape(layers=stack.depth, heads=attention.kv_heads, width=attention.head_size)


@torch.no_grad()
def prefix_of_tokens(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """(l, 2 x layers x heads x width): the keys and values of real tokens, as Li and Liang start from. Of a network
    without a cache those that its matrices give, before any rotation."""
    text = torch.tensor([ids], device=model.device)
    if anatomy_of(model).prefix == "rows":
        return projected_tokens(model, text)
    if model.config.is_encoder_decoder:
        return join_layers(
            model(input_ids=text, decoder_input_ids=text, use_cache=True).past_key_values.self_attention_cache
        )
    cache = DynamicCache()
    stack_of(model)(input_ids=text, past_key_values=cache, use_cache=True)
    return join_layers(cache)


class PrefixTuningTuner(Tuner):
    """l trained key/value positions in every layer: 2 x layers x l x (heads x width) numbers. Group `prefix`.

    With `projection` they come out of an MLP, Linear(w, h), tanh, Linear(h, 2 x layers x w), of an (l, w) matrix, w =
    heads x width; all of it is trained, and only the prefix is needed afterwards.
    """

    budget_knob = "num_virtual_tokens"
    cfg: PrefixTuningOptions

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        self.check(backbone, context)
        model, shape = backbone.model.requires_grad_(False), shape_of(backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            prefixed = PrefixedModel(model, self._peft_config(backbone, shape), shape)
        ids = initial_token_ids(self.cfg, backbone, context)
        if ids is not None:
            with torch.no_grad(), prefixed.disable_adapter():
                prefixed.encoder.embedding.weight.copy_(prefix_of_tokens(model, ids))
        return prefixed

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        shape_of(backbone)
        if backbone.anatomy.last.causal:
            check_window(backbone, context.max_length + self.cfg.num_virtual_tokens)
        if self.cfg.projection and self.cfg.init != "random":
            raise UsageError(
                f"method.tuner.init={self.cfg.init}: with method.tuner.projection=true the prefix comes out of an MLP, "
                "which starts at random. Add method.tuner.init=random, or drop the projection."
            )
        check_length(backbone, context.max_length, self.cfg.num_virtual_tokens, "method.tuner.num_virtual_tokens")

    def _peft_config(self, backbone: Backbone, shape: Shape) -> peft.PrefixTuningConfig:
        return peft.PrefixTuningConfig(
            task_type=task_type(backbone),
            num_virtual_tokens=self.cfg.num_virtual_tokens,
            prefix_projection=self.cfg.projection,
            encoder_hidden_size=self.cfg.projection_hidden,
            token_dim=shape.heads * shape.width,
            num_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_transformer_submodules=2 if backbone.family == "seq2seq" else 1,
            base_model_name_or_path=backbone.model.config._name_or_path or None,
        )

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {"prefix": [p for p in model.parameters() if p.requires_grad]}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        shape, length, h = shape_of(backbone), self.cfg.num_virtual_tokens, self.cfg.projection_hidden
        w = shape.heads * shape.width
        if not self.cfg.projection:
            return 2 * shape.layers * length * w
        return length * w + (w + 1) * h + (h + 1) * 2 * shape.layers * w

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        assert isinstance(model, PrefixedModel)
        return model.disable_adapter()

    def save(self, model: nn.Module, folder: Path) -> None:
        """A PREFIX_TUNING adapter that plain peft loads (of an encoder-decoder, see the top of this file, and of a
        network without a cache only its weights); with `projection` also the MLP, to train on."""
        assert isinstance(model, PrefixedModel)
        config = replace(model.peft_config, prefix_projection=False)
        write_adapter(folder, config, {"prompt_embeddings": model.prefix()})
        if model.config.is_encoder_decoder or model.rows:
            (folder / "adapter_config.json").unlink()
        if self.cfg.projection:
            write_module(model.encoder, folder / ENCODER_FILE)

    def load(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, PrefixedModel)
        found = read_tensors(folder, {"prompt_embeddings": model.prefix().detach()})
        if self.cfg.projection:
            read_module(model.encoder, folder / ENCODER_FILE)
            return
        with torch.no_grad():
            model.encoder.embedding.weight.copy_(found["prompt_embeddings"])
