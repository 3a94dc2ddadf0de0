"""From the names of one kind of architecture, as a YAML file or the structure gives them, to an `Anatomy`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from peftbench.errors import UsageError, did_you_mean
from peftbench.models.anatomy.parts import Anatomy, Attention, Block, FeedForward, PrefixEntry, Projection, Stack
from peftbench.models.architecture import accepts, family_of

Names = Mapping[str, Any]
Network = TypeVar("Network", bound=nn.Module)
KEYS = {"stacks", "positions", "norm", "projection", "scale"}
STACK_KEYS = {"blocks", "shared", "attention", "cross", "ffn"}
POSITIONS = ("learned", "sinusoidal", "rotary", "relative", "alibi", "none")


class Misfit(Exception):
    """Names that are not those of the network's modules."""


def bare(model: PreTrainedModel) -> PreTrainedModel:
    """The bare stack of blocks: `model` itself, or what its language-model head sits on."""
    return getattr(model, model.base_model_prefix, model)


def is_norm(module: nn.Module) -> bool:
    """LayerNorm, RMSNorm and their relatives: one gain a channel."""
    weight = getattr(module, "weight", None)
    return "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1


def fixed_tables(model: nn.Module) -> list[nn.Parameter]:
    """What a formula fills and the network reads without gradients: sinusoidal positions, parameters only by name."""
    tables = [m for m in model.modules() if "sinusoidal" in type(m).__name__.lower()]
    return list(dict.fromkeys(p for table in tables for p in table.parameters(recurse=False)))


def unfrozen(model: Network) -> Network:
    """The same network, all its weights to be trained but `fixed_tables`."""
    model.requires_grad_(True)
    for table in fixed_tables(model):
        table.requires_grad_(False)
    return model


def out_features(matrix: nn.Module) -> int:
    """Width of a linear map's output; GPT-2 stores its matrices transposed."""
    matrix = unwrapped(matrix)
    if not isinstance(matrix, (nn.Linear, Conv1D)):
        raise Misfit(f"a {type(matrix).__name__} is no weight matrix")
    return matrix.nf if isinstance(matrix, Conv1D) else matrix.out_features


def unwrapped(module: nn.Module) -> nn.Module:
    """The backbone's own module under those that tuners have put in its place."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


class Reader:
    """Finds the modules that names stand for in one network.

    Raises:
        Misfit: a name is no module's.
    """

    def __init__(self, model: PreTrainedModel, source: str) -> None:
        self.model, self.source = model, source
        self.stack = bare(model)
        self.modules = dict(model.named_modules())
        self.prefix = next(name for name, module in self.modules.items() if module is self.stack)
        self.config = model.config.get_text_config()

    def anatomy(self, names: Names) -> Anatomy:
        """What `names` say of this network."""
        check_keys(names, KEYS, "")
        word = self.model.get_input_embeddings()
        assert word is not None
        stacks = tuple(self._stack(entry, i, len(names["stacks"])) for i, entry in enumerate(names["stacks"]))
        norms = {norm for stack in stacks for block in stack.blocks for norm in block.norms}
        embeddings = self._position_table()
        width = hidden_size(self.model)
        return Anatomy(
            architecture=str(self.config.model_type),
            source=self.source,
            stack=self.prefix,
            stacks=stacks,
            word_embeddings=next(name for name, module in self.modules.items() if module is word),
            hidden_size=width,
            embedding_size=int(unwrapped(word).weight.shape[1]),  # type: ignore[union-attr, index]
            positions=self._positions(names["positions"]),
            norm=names["norm"],
            prefix=self._prefix(stacks[-1]),
            position_embeddings=embeddings,
            projection=self._optional(names.get("projection"), self.prefix),
            embedding_scale=embedding_scale(self.model, names),
            first_position=first_position(self.model),
            max_positions=self._max_positions(embeddings),
            window=self._window(),
            final_norms=tuple(n for n, m in self.modules.items() if is_norm(m) and n not in norms and own(n)),
        )

    def _stack(self, entry: Names, index: int, number: int) -> Stack:
        check_keys(entry, STACK_KEYS, f"stacks[{index}]")
        found = self._members(entry["blocks"])
        passes = self._passes(entry, found)
        blocks = tuple(self._block(name, entry, times) for name, times in zip(found, passes, strict=True))
        decoder = index == number - 1 and (number > 1 or self._generates())
        return Stack(self._holder(found[0]), "decoder" if decoder else "encoder", decoder, blocks)

    def _holder(self, block: str) -> str:
        """The innermost of transformers' models around a block: those have masks and caches made."""
        above = ["", *(block[: m.start()] for m in re.finditer(r"\.", block))]
        return next(name for name in reversed(above) if isinstance(self.modules[name], PreTrainedModel))

    def _generates(self) -> bool:
        """Whether a network of one stack answers from left to right, as `family_of` has it."""
        return family_of(self.model.config) == "causal"

    def _members(self, pattern: str) -> list[str]:
        """Full names of the blocks that a pattern stands for, in order."""
        wanted = re.compile(re.escape(join(self.prefix, pattern)).replace(r"\#", r"\d+") + r"\.\d+")
        if not (found := [name for name in self.modules if wanted.fullmatch(name)]):
            raise Misfit(f"blocks: no list of modules is called `{pattern}`")
        return found

    def _passes(self, entry: Names, found: list[str]) -> list[int]:
        """How often each block runs: consecutive layers share the blocks of one list of the outer list."""
        if "shared" not in entry:
            return [1] * len(found)
        layers, groups = int(getattr(self.config, entry["shared"])), [name.rpartition(".")[0] for name in found]
        distinct = list(dict.fromkeys(groups))
        used = [distinct[int(i / (layers / len(distinct)))] for i in range(layers)]
        return [used.count(group) for group in groups]

    def _block(self, name: str, entry: Names, passes: int) -> Block:
        norms = tuple(n for n, m in self.modules.items() if n.startswith(f"{name}.") and is_norm(m) and own(n))
        return Block(
            name=name,
            attention=self._attention(entry["attention"], name),
            feed_forward=self._feed_forward(entry["ffn"], name),
            cross=self._attention(entry["cross"], name) if "cross" in entry else None,
            passes=passes,
            norms=norms,
        )

    def _attention(self, names: Names, block: str) -> Attention:
        check_keys(names, {"module", "query", "key", "value", "qkv", "output", "fused"}, "attention")
        first = self._name(names["qkv"] if "qkv" in names else names["query"], block)
        module = self._name(names["module"], block) if "module" in names else first.rpartition(".")[0]
        size = self._head_size(module)
        if "qkv" not in names:
            parts = {role: Projection(self._name(names[role], block)) for role in ("query", "key", "value")}
            heads, kv_heads = (out_features(self.modules[parts[role].name]) // size for role in ("query", "key"))
        else:
            heads = self._heads(module)
            kv_heads = (out_features(self.modules[first]) // size - heads) // 2
            parts = fused_attention(first, heads, kv_heads, size, names["fused"])
        return Attention(module, **parts, output=Projection(self._name(names["output"], block)),
                         heads=heads, kv_heads=kv_heads, head_size=size)  # fmt: skip

    def _feed_forward(self, names: Names, block: str) -> FeedForward:
        check_keys(names, {"in", "gate", "out", "fused", "experts"}, "ffn")
        if "experts" in names:
            whole = Projection(self._name(names["experts"], block))
            return FeedForward(whole, whole, experts=True)
        inward, outward = self._name(names["in"], block), Projection(self._name(names["out"], block))
        if "fused" not in names:
            gate = self._optional(names.get("gate"), block)
            return FeedForward(Projection(inward), outward, Projection(gate) if gate else None)
        width = out_features(self.modules[inward]) // len(names["fused"])
        parts = {role: Projection(inward, ((i * width, (i + 1) * width),)) for i, role in enumerate(names["fused"])}
        return FeedForward(parts["in"], outward, parts.get("gate"))

    def _name(self, alternatives: str, block: str) -> str:
        """The full name of the first alternative that exists."""
        found = self._optional(alternatives, block)
        if found is None:
            raise Misfit(f"`{block}` has no module called `{alternatives}`")
        return found

    def _optional(self, alternatives: str | None, within: str) -> str | None:
        names = [join(within, name) for name in (alternatives or "").split("|") if name]
        return next((name for name in names if name in self.modules), None)

    def _heads(self, attention: str) -> int:
        module = self.modules[attention]
        found = next(
            (getattr(module, n) for n in ("num_heads", "num_attention_heads", "n_heads") if hasattr(module, n)), 0
        )
        return int(found or self.config.num_attention_heads)

    def _head_size(self, attention: str) -> int:
        module = self.modules[attention]
        names = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
        found = next((getattr(module, n) for n in names if isinstance(getattr(module, n, None), int)), 0)
        return int(found or hidden_size(self.model) // self.config.num_attention_heads)

    def _positions(self, named: str) -> Any:
        if named not in POSITIONS:
            raise Misfit(f"positions: {named}. {did_you_mean(named, POSITIONS)}")
        return "alibi" if getattr(self.config, "alibi", False) is True else named

    def _position_table(self) -> str | None:
        """The table that position ids are looked up in."""
        wanted = ("position_embeddings", "embed_positions", "wpe")
        found = [n for n, m in self.modules.items() if n.endswith(wanted) and isinstance(m, nn.Embedding)]
        return found[0] if found else None

    def _max_positions(self, table: str | None) -> int | None:
        if table is not None:
            module = self.modules[table]
            assert isinstance(module, nn.Embedding)
            # BART and OPT shift all ids by `offset` rows that are never used; RoBERTa-likes begin behind the padding's.
            return module.num_embeddings - int(getattr(module, "offset", 0)) - first_position(self.model)
        limit = getattr(self.config, "max_position_embeddings", None)
        return int(limit) if limit else None

    def _window(self) -> int | None:
        """Of the narrowest layer."""
        config = self.config
        kinds = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)
        if window is None or getattr(config, "use_sliding_window", True) is False or kinds == {"full_attention"}:
            return None
        return int(window)

    def _prefix(self, stack: Stack) -> PrefixEntry:
        return "cache" if accepts(self.modules[stack.module], "past_key_values") else "rows"


def first_position(model: PreTrainedModel) -> int:
    """Position id of a first token: 0, but padding_idx + 1 in RoBERTa and its relatives."""
    relatives = any(hasattr(m, "create_position_ids_from_inputs_embeds") for m in model.modules())
    return int(model.config.pad_token_id) + 1 if relatives else 0


def embedding_scale(model: PreTrainedModel, names: Names) -> float:
    """What the network multiplies the embeddings of ids by, but not embeddings that it is given."""
    if "scale" not in names:
        return 1.0
    owner, _, name = names["scale"].rpartition(".")
    return float(getattr(bare(model).get_submodule(owner), name))


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the hidden states; some networks' word embeddings are narrower."""
    config = model.config.get_text_config()
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
    if not width:
        raise Misfit("its config has no hidden_size")
    return int(width)


def fused_attention(name: str, heads: int, kv_heads: int, size: int, how: str) -> dict[str, Projection]:
    """Which outputs of one matrix are the queries, keys and values; all of them where that is not known."""
    if how == "unknown":
        return {role: Projection(name) for role in ("query", "key", "value")}
    if how not in ("whole", "by_head"):
        raise Misfit(f"fused: {how}. {did_you_mean(how, ('whole', 'by_head', 'unknown'))}")
    groups = 1 if how == "whole" else kv_heads
    shares = {"query": heads // groups, "key": kv_heads // groups, "value": kv_heads // groups}
    step, parts, start = sum(shares.values()) * size, {}, 0
    for role, share in shares.items():
        width = share * size
        parts[role] = Projection(name, tuple((g * step + start, g * step + start + width) for g in range(groups)))
        start += width
    return parts


def own(name: str) -> bool:
    """Whether a module is the backbone's, not one that a tuner has put in or a copy that it trains."""
    return not re.search(r"\.(modules_to_save|adapter_\w+|ln_tuning_layers)\.", f"{name}.")


def join(prefix: str, name: str) -> str:
    """Names one inside the other."""
    return f"{prefix}.{name}" if prefix else name


def check_keys(names: Names, known: Iterable[str], where: str) -> None:
    """Raises Misfit for a key that no description has."""
    for key in names:
        if key not in known:
            raise Misfit(f"{where}{'.' if where else ''}{key}: no such key. {did_you_mean(str(key), sorted(known))}")


def refused(architecture: str, what: str, reason: Exception | str) -> UsageError:
    """One message for a network whose parts are not known."""
    return UsageError(
        f"{what}: the parts of the architecture `{architecture}` cannot be read off it: {reason}. Describe them in an "
        "anatomy.yaml beside its config.json (`peftbench ls models minilm --anatomy` shows one), or take a method that "
        "needs none: head_only, full, prompt_tuning."
    )
