"""Any tuner that the installed peft offers, by the name of its type: a new release of peft needs no code here.

What a type trains and how is peft's business. Ours is to say early what cannot work, to choose target modules where
peft knows none for the architecture, and to know the formula of the trainable numbers where there is a short one.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import peft
import torch
from peft import PeftConfig, PromptLearningConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lokr.layer import factorization
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils import constants
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.config import registry
from peftbench.errors import UsageError, did_you_mean
from peftbench.models.anatomy import known
from peftbench.models.anatomy.choose import is_matrix, is_target, names_of_roles, norms_of, unmistakable
from peftbench.models.anatomy.names import own
from peftbench.models.base import Backbone
from peftbench.tuners.base import TunerContext
from peftbench.tuners.layerwise import in_layers
from peftbench.tuners.peft import PeftTypeOptions, moves_weights
from peftbench.tuners.peft_adapter import PeftTuner, task_type, wrap
from peftbench.tuners.positions import count_real_positions
from peftbench.tuners.ranks import Rank, rank_of_updates

ELSEWHERE = {
    "ADALORA": "it needs a hand in every training step: use method=adalora",
    "PROMPT_TUNING": "use method=prompt_tuning, whose positions do not count padding and whose prompt can be reloaded",
    "POLY": "it needs the number of a task with every batch, and a run here has one task",
    "XLORA": "it mixes adapters that were trained before",
    "SHADOW": "its second network adds a loss of its own to the model's, which no formulation here reads",
}
"""Types that do not fit a run of ours, and why. Others may still be refused by peft, in its own words."""

OURS = {field.name for field in dataclasses.fields(PeftConfig)} | {"modules_to_save"}
"""Keys of peft's configs that this program sets; the rest are a user's `options`."""

SIZE = {"FOURIERFT": "n_frequency", **dict.fromkeys(("DELORA", "HIRA", "LOHA", "LORA", "VERA"), "r")}
"""The option that `method.budget` sets, where any whole number will do and the size grows with it."""

REFUSALS = (ValueError, TypeError, NotImplementedError, AttributeError, KeyError)
"""What peft raises for a type that it cannot put into a network."""

LOW_RANK = {"DELORA", "HIRA", "LOHA", "LORA"}
"""Types whose `r` is the rank of a trained product of the shape of the matrix. Of VERA, RANDLORA and LOKR it is not:
more random or Kronecker factors than that go on adding updates."""

Formula = Callable[[Any, int, int], float]
BY_MATRIX: dict[str, Formula] = {
    "LORA": lambda c, out, inner: c.r * (out + inner) + (out if c.use_dora else 0) + (out if c.lora_bias else 0),
    "BEFT": lambda c, out, inner: out,
    "BOFT": lambda c, out, inner: (
        c.boft_n_butterfly_factor * inner * (c.boft_block_size or inner // c.boft_block_num) + out
    ),
    "C3A": lambda c, out, inner: out * inner / c.block_size,
    "DELORA": lambda c, out, inner: c.r * (out + inner) + 1,
    "FOURIERFT": lambda c, out, inner: c.n_frequency,
    "HIRA": lambda c, out, inner: c.r * (out + inner),
    "HRA": lambda c, out, inner: c.r * inner,
    "LOHA": lambda c, out, inner: 2 * c.r * (out + inner),
    "LOKR": lambda c, out, inner: kronecker_count(c, out, inner),
    "MISS": lambda c, out, inner: c.r * out,
    "OFT": lambda c, out, inner: rotation_count(inner, c.oft_block_size or inner // c.r, c.block_share),
    "RANDLORA": lambda c, out, inner: math.ceil(min(out, inner) / c.r) * (c.r + min(out, inner)),
    "ROAD": lambda c, out, inner: out * {"road_1": 1, "road_2": 2, "road_4": 4}[c.variant],
    "VERA": lambda c, out, inner: c.r + out,
}
"""Trainable numbers of one adapted matrix of shape (out, inner), from peft's config."""


class PeftTypeTuner(PeftTuner):
    """The adapter of `method.tuner.type`, made by peft from `method.tuner.options`. Group `adapter`."""

    group = "adapter"
    cfg: PeftTypeOptions

    def __init__(self, cfg: PeftTypeOptions) -> None:
        """Raises UsageError for a type or an option that peft does not have, or that does not fit here."""
        super().__init__(cfg)
        self.kind, self.config_class = config_class(cfg.type)
        check_options(self.kind, self.config_class, cfg.options)
        defaults = {field.name: field.default for field in dataclasses.fields(self.config_class)}
        first = {**defaults, **cfg.options}
        random = first.get("init_weights") is False or first.get("init_lora_weights") is False
        self.budget_knob = f"options.{SIZE[self.kind]}" if self.kind in SIZE else None
        self.identity_at_start = "base" if self.kind in STARTS_AT_BASE and not random else None
        self.restores_base = not moves_weights(first)

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        config = self.peft_config(backbone, context)
        if backbone.family == "causal":
            count_real_positions(backbone.model)
        try:
            return wrapped_once(wrap(backbone, config, context.seed))
        except REFUSALS as error:
            raise self.refused(backbone, error) from error

    def refused(self, backbone: Backbone, error: Exception) -> UsageError:
        """What peft says of a type on a network, and the way out."""
        pair, version = f"method.tuner.type={self.kind} on model={backbone.name}", f"peft {peft.__version__}"
        if Conv1D.__name__ in str(error):
            return UsageError(
                f"{pair}: the network's matrices are stored transposed, (in, out) in a `{Conv1D.__name__}`, and "
                f"{version} computes {self.kind} from matrices (out, in) alone. Use a type that it computes for both, "
                "such as LORA, IA3, VERA or FOURIERFT, or choose another model."
            )
        return UsageError(
            f"{pair}: {version} refuses it: {str(error).rstrip('. ')}. Change method.tuner.options, or choose another "
            "type or model."
        )

    def peft_config(self, backbone: Backbone, context: TunerContext) -> PeftConfig:
        """peft's own config: the options, and what is left to us where they do not say.

        Raises:
            UsageError: peft does not accept a value.
        """
        fields = {field.name for field in dataclasses.fields(self.config_class)}
        options = dict(self.cfg.options)
        _refuse_slow_patterns(options)
        if options.get("target_modules") is None and "target_modules" in fields:
            options |= self.targets(backbone)
        if self.kind == "TRAINABLE_TOKENS" and not options.get("token_indices"):
            options["token_indices"] = default_tokens(backbone, context)
        if "fan_in_fan_out" in fields and any(isinstance(m, Conv1D) for m in backbone.model.modules()):
            options.setdefault("fan_in_fan_out", True)
        try:
            return self.config_class(task_type=task_type(backbone), **options)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"method.tuner.options: peft's {self.config_class.__name__} does not accept them: {error}"
            ) from error

    def targets(self, backbone: Backbone) -> dict[str, Any]:
        """`target_modules` and what goes with them, by `target` and `layers` where these are set."""
        cfg = self.cfg
        if cfg.target is not None:
            return {"target_modules": names_of_roles(backbone.model, cfg.target, cfg.layers)}
        found = default_targets(self.kind, backbone)
        if cfg.layers == "all":
            return found
        chosen = found.get("target_modules") or usual_targets(self.kind)[backbone.model.config.model_type]
        names = [name for name, _ in backbone.model.named_modules() if matches(name, chosen)]
        return {**found, "target_modules": unmistakable(backbone.model, in_layers(backbone, cfg.layers, names))}

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        """Has peft put the adapter into a copy of the outline: it knows best what it refuses."""
        if self.kind == "TRAINABLE_TOKENS" and not self.cfg.options.get("token_indices"):
            return  # which they are is the tokenizer's word
        config = self.peft_config(backbone, context)
        copied = dataclasses.replace(backbone, model=copy.deepcopy(backbone.model))
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `build` gives them again
                wrap(copied, config, context.seed)
        except REFUSALS as error:
            if "meta" not in str(error).lower():
                raise self.refused(backbone, error) from error
        except RuntimeError:
            pass  # as with a `meta` above: the adapter starts from values of the weights, and here are none

    def ranks(self, backbone: Backbone, context: TunerContext) -> list[Rank]:
        if self.kind not in LOW_RANK:
            return []
        config: Any = self.peft_config(backbone, context)
        targets = config.target_modules or usual_targets(self.kind).get(backbone.model.config.model_type)
        if targets is None or partial(config):
            return []
        return rank_of_updates("options.r", config.r, matrices(backbone, targets))

    def with_knob(self, cfg: PeftTypeOptions, value: int) -> PeftTypeOptions:
        return dataclasses.replace(cfg, options={**cfg.options, SIZE[self.kind]: value})

    def disabled(self, model: nn.Module) -> Any:
        return super().disabled(model) if self.restores_base else None

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        config = self.peft_config(backbone, context)
        if self.kind == "TRAINABLE_TOKENS":
            return len(config.token_indices) * backbone.embedding_size  # type: ignore[attr-defined]
        architecture = backbone.model.config.model_type
        targets = getattr(config, "target_modules", None) or usual_targets(self.kind).get(architecture)
        if targets is None or getattr(config, "bias", "none") != "none" or partial(config):
            return None
        if self.kind == "LN_TUNING":
            norms = [m for name, m in norms_of(backbone.model).items() if matches(name, targets)]
            return sum(p.numel() for m in norms for p in m.parameters())
        if self.kind == "IA3":
            inward = config.feedforward_modules or usual_feedforward().get(architecture, [])  # type: ignore[attr-defined]
            return sum(i if matches(n, inward) else o for n, (o, i) in matrices(backbone, targets).items())
        if self.kind not in BY_MATRIX:
            return None
        formula, shapes = BY_MATRIX[self.kind], matrices(backbone, targets).values()
        return round(sum(formula(config, out, inner) for out, inner in shapes))


STARTS_AT_BASE = {*BY_MATRIX, "IA3", "LN_TUNING", "TRAINABLE_TOKENS"}
"""Types that change nothing before the first step, unless `init_weights` says otherwise."""


def wrapped_once(model: nn.Module) -> nn.Module:
    """The same without layers around their like: where the encoder's embeddings are the network's (Marian), peft takes
    them for tied to themselves, and wraps them in a layer of trainable tokens again."""
    for name, module in [*model.named_modules()]:
        inner = getattr(module, "base_layer", None)
        if isinstance(module, TrainableTokensLayer) and isinstance(inner, TrainableTokensLayer):
            model.set_submodule(name, inner)
    return model


def config_class(name: str) -> tuple[str, type[PeftConfig]]:
    """peft's spelling of a type and its config class.

    Raises:
        UsageError: peft has no such type, or it does not fit a run of ours.
    """
    kind = name.upper()
    theirs = {t.value.upper(): c for t, c in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    known = {k: c for k, c in theirs.items() if c.__module__.startswith("peft.")}
    if kind in known.keys() - ELSEWHERE.keys() and not issubclass(known[kind], PromptLearningConfig):
        return kind, known[kind]
    if kind in ELSEWHERE:
        reason = ELSEWHERE[kind]
    elif kind in known:
        reason = "soft prompts have methods of their own (`peftbench ls methods`), with reloading and padding in order"
    elif kind.lower() in registry.built_in("tuner"):
        reason = f"it is ours: use method={kind.lower()}"
    else:
        usable = [k for k, c in known.items() if k not in ELSEWHERE and not issubclass(c, PromptLearningConfig)]
        raise UsageError(
            f"method.tuner.type={name}: peft {peft.__version__} has no such type. {did_you_mean(kind, usable, 60)}"
        )
    raise UsageError(f"method.tuner.type={name}: {reason}.")


def check_options(kind: str, cls: type[PeftConfig], options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that is not a field of peft's config class, or that is not for a user to set."""
    fields = {field.name for field in dataclasses.fields(cls)} - OURS
    for name in options:
        if name not in fields:
            raise UsageError(
                f"method.tuner.options.{name}: peft's {cls.__name__} has no such option to set. "
                f"{did_you_mean(name, fields, 60)}"
            )


def usual_targets(kind: str) -> Mapping[str, Any]:
    """Architecture -> the modules that peft adapts unless it is told."""
    name = kind.replace("_", "")
    return getattr(constants, f"TRANSFORMERS_MODELS_TO_{name}_TARGET_MODULES_MAPPING", {})


def usual_feedforward() -> Mapping[str, Any]:
    """Architecture -> the targets of (IA)3 whose input is scaled instead of the output."""
    return constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING


def usual_of(backbone: Backbone, usual: Mapping[str, Any]) -> str | None:
    """The architecture for which peft has a choice: the backbone's own, or one whose blocks are built of modules of the
    same names (roberta's for xlm-roberta)."""
    own = backbone.model.config.model_type
    if own in usual:
        return str(own)
    parts = known().get(own, {}).get("stacks")
    return next((a for a in usual if parts and known().get(a, {}).get("stacks") == parts), None)


def default_targets(kind: str, backbone: Backbone) -> dict[str, Any]:
    """`target_modules` (and what goes with them): peft's for the architecture or for its kin; failing that, the norms
    for LN_TUNING, keys, values and the feed-forward's last matrix for (IA)3, none for types that find their place
    themselves, and queries and values for the rest."""
    if kind in ("TRAINABLE_TOKENS", "ADAPTION_PROMPT"):
        return {}
    usual = usual_targets(kind)
    kin = usual_of(backbone, usual)
    if kin is not None and isinstance(usual[kin], list) and all(names_a_module(backbone, name) for name in usual[kin]):
        # said to peft even where it knows them: it forgets them for LORA in a mixture of experts
        extra = {"feedforward_modules": usual_feedforward()[kin]} if kind == "IA3" else {}
        return {"target_modules": list(usual[kin]), **extra}
    if kin == backbone.model.config.model_type:
        return {}
    if kind == "LN_TUNING":
        return {"target_modules": short_names(backbone, norms_of(backbone.model))}
    if kind == "IA3":
        return scaled_modules(backbone)
    return {"target_modules": queries_and_values(backbone) if usual else "all-linear"}


def queries_and_values(backbone: Backbone) -> list[str] | str:
    """Their matrices; all linear maps of a network whose parts are not known."""
    try:
        return names_of_roles(backbone.model, "attention.qv")
    except UsageError:
        return "all-linear"


def names_a_module(backbone: Backbone, name: str) -> bool:
    """Whether peft would find a module of that name."""
    return any(is_target(full, name) for full, _ in backbone.model.named_modules())


def short_names(backbone: Backbone, wanted: Mapping[str, Any]) -> list[str]:
    """Last parts of names where they stand for exactly these modules, else `unmistakable` names."""
    short = sorted({name.rpartition(".")[2] for name in wanted})
    found = {n.removesuffix(".base_layer") for n, _ in backbone.model.named_modules() if own(n)}
    same = {n for n in found if any(is_target(n, end) for end in short)} == set(wanted)
    return short if same else unmistakable(backbone.model, wanted)


def scaled_modules(backbone: Backbone) -> dict[str, Any]:
    """(IA)3's: keys and values, and the feed-forward's last matrix, whose input is scaled. One fused matrix is scaled
    whole, as peft has it for GPT-2: its queries too. A mixture of experts has no such matrix: attention alone."""
    blocks = backbone.anatomy.blocks()
    attended = [p.name for b in blocks for a in b.attentions() for p in (a.key, a.value)]
    inward = [b.feed_forward.outward.name for b in blocks if not b.feed_forward.experts]
    names = [unmistakable(backbone.model, dict.fromkeys(part)) for part in (attended, inward)]
    return {"target_modules": names[0] + names[1], "feedforward_modules": names[1]}


def default_tokens(backbone: Backbone, context: TunerContext) -> list[int]:
    """Token ids whose embeddings are trained: those that frame every text, and those of the label words."""
    tokenizer = backbone.tokenizer
    framed = {tokenizer.bos_token_id, tokenizer.eos_token_id, *tokenizer("")["input_ids"]} - {None}
    spelt = [text for word in context.label_words for text in (word, f" {word}")]
    words = {i for text in spelt for i in tokenizer(text, add_special_tokens=False)["input_ids"]}
    return sorted(framed | words)


def matrices(backbone: Backbone, targets: Any) -> dict[str, tuple[int, int]]:
    """Name -> (out, in) of every weight matrix among `targets`. Peft's wrapper of one may be a matrix itself."""
    head = backbone.model.get_output_embeddings()
    found = {}
    for name, module in backbone.model.named_modules():
        name = name.removesuffix(".base_layer")
        if is_matrix(module) and matches(name, targets) and not (targets == "all-linear" and module is head):
            out, inner = module.weight.shape
            found[name] = (inner, out) if isinstance(module, Conv1D) else (out, inner)
    return found


def matches(name: str, targets: Any) -> bool:
    """peft's rule: a string is a regular expression for the whole name, a list holds names or ends of names."""
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, name) is not None
    return any(is_target(name, target) for target in targets)


LONGEST_PATTERN = 1000
_NESTED = re.compile(r"\([^()]*[*+}][^()]*\)[*+{]|[*+}]\)+[*+{]")
"""A repetition of a group that holds another: on a name that does not fit it may be tried in 2^n ways."""


def _refuse_slow_patterns(options: Mapping[str, Any]) -> None:
    for key in ("target_modules", "exclude_modules", "layers_pattern", "feedforward_modules"):
        pattern = options.get(key)
        if isinstance(pattern, str) and (len(pattern) > LONGEST_PATTERN or _NESTED.search(pattern)):
            raise UsageError(
                f"method.tuner.options.{key}={pattern[:80]}: a regular expression with a repetition in a repeated "
                f"group, or of more than {LONGEST_PATTERN} characters, may take for ever. List the modules instead."
            )


def partial(config: PeftConfig) -> bool:
    """Whether options restrict or vary the adapter by module, so that no formula by matrix holds."""
    keys = ("layers_to_transform", "exclude_modules", "rank_pattern", "n_frequency_pattern", "block_size_pattern")
    extra = ("trainable_token_indices", "target_parameters", "layer_replication", "kasa_config", "use_bdlora")
    return any(getattr(config, key, None) for key in (*keys, *extra))


def kronecker_count(config: Any, out: int, inner: int) -> int:
    """Two Kronecker factors of a matrix; the larger is itself of rank r where that is smaller."""
    (out_1, out_2), (in_1, in_2) = (factorization(n, config.decompose_factor) for n in (out, inner))
    first, second = out_1 * in_1, out_2 * in_2
    if config.decompose_both and config.r < max(out_1, in_1) / 2:
        first = config.r * (out_1 + in_1)
    if config.r < max(out_2, in_2) / 2:
        second = config.r * (out_2 + in_2)
    return first + second


def rotation_count(inner: int, block: int, shared: bool) -> float:
    """Skew-symmetric blocks, each with one number for every pair of rows."""
    return (1 if shared else inner / block) * block * (block - 1) / 2
