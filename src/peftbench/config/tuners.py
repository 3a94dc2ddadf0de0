"""A dataclass behind every `conf/method/tuner/*.yaml`, which has the defaults. Free of torch: the config is checked
before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from peftbench.config.schema import TunerConfig, number, one_of, packaged

PROMPT_STARTS = ("vocab", "text", "labels", "random", "bayesprompt", "bayesprompt_shots", "cones")
"""Where a soft prompt may start; see `peftbench.tuners.prompt_init`."""


@packaged("method/tuner/none")
@dataclass
class NoTuner(TunerConfig):
    """For methods without a backbone."""


@packaged("method/tuner/full")
@dataclass
class FullConfig(TunerConfig):
    """All weights of the backbone are trained."""


@packaged("method/tuner/head_only")
@dataclass
class HeadOnlyConfig(TunerConfig):
    """The backbone stays frozen; only the formulation's head is trained."""


@packaged("method/tuner/lora")
@dataclass
class LoraConfig(TunerConfig):
    """Low-rank updates of weight matrices (peft's LORA)."""

    rank: int = number(ge=1)
    alpha: float = number(gt=0)
    dropout: float = number(ge=0, le=0.9)
    target_modules: list[str] | None = MISSING
    rslora: bool = MISSING
    dora: bool = MISSING


@packaged("method/tuner/adalora")
@dataclass
class AdaLoraConfig(TunerConfig):
    """LoRA whose ranks move to the matrices that need them (peft's ADALORA)."""

    init_rank: int = number(ge=2)
    target_rank: int = number(ge=1)
    alpha: float = number(gt=0)
    dropout: float = number(ge=0, le=0.9)
    target_modules: list[str] | None = MISSING
    warmup: float = number(ge=0, le=1)
    final: float = number(ge=0, le=1)
    every: int = number(ge=1)
    beta1: float = number(gt=0, le=0.999)
    beta2: float = number(gt=0, le=0.999)
    orthogonality: float = number(ge=0)


@packaged("method/tuner/peft")
@dataclass
class PeftTypeConfig(TunerConfig):
    """Any adapter of the installed peft: the name of its type, and options of peft's own config class."""

    type: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)


@packaged("method/tuner/file")
@dataclass
class FileConfig(TunerConfig):
    """A tuner in a Python file of the user's. `sha256` is that of the file, so that an edited file is another run."""

    file: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = MISSING


@packaged("method/tuner/prompt_tuning")
@dataclass
class PromptTuningConfig(TunerConfig):
    """Soft prompt in front of the embedded input (peft's PROMPT_TUNING)."""

    num_virtual_tokens: int = number(ge=1)
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING


@packaged("method/tuner/bayesprompt")
@dataclass
class BayesPromptConfig(TunerConfig):
    """A soft prompt that starts from, and may be held to, vectors typical of the task's texts."""

    num_virtual_tokens: int = number(ge=1)
    init: str = one_of("bayesprompt", "bayesprompt_shots")
    pull: float = number(ge=0)
    overwrite: bool = MISSING


@packaged("method/tuner/dept")
@dataclass
class DeptConfig(TunerConfig):
    """Decomposed prompt tuning: a short soft prompt and a low-rank offset of the input embeddings."""

    num_virtual_tokens: int = number(ge=0)
    rank: int | None = number(ge=0)
    budget_tokens: int | None = number(ge=1)
    alpha: float = number(ge=0)
    offset: str = one_of("position", "token")
    token_dropout: float = number(ge=0, le=0.9)
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING


@packaged("method/tuner/ept")
@dataclass
class EptConfig(TunerConfig):
    """DePT whose short prompt is rebuilt by fusion and multi-space projection (our reading of the paper)."""

    num_virtual_tokens: int = number(ge=1)
    rank: int = number(ge=0)
    alpha: float = number(ge=0)
    offset_init: str = one_of("dept", "svd")
    fusion: bool = MISSING
    fusion_proj: str = one_of("none", "linear")
    fusion_hidden: int = number(ge=1)
    spaces: int = number(ge=0)
    bottleneck: int = number(ge=1)
    gate: str = one_of("prompt_mean", "per_token")
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING


@packaged("method/tuner/iapt")
@dataclass
class IaptConfig(TunerConfig):
    """Soft tokens in front of every block, made from the instruction by a small network."""

    num_tokens: int = number(ge=1)
    bottleneck: int = number(ge=1)
    share_group: int = number(ge=1)


@packaged("method/tuner/p_tuning")
@dataclass
class PTuningConfig(TunerConfig):
    """P-tuning v1: a soft prompt that comes out of a small encoder (peft's P_TUNING)."""

    num_virtual_tokens: int = number(ge=1)
    encoder: str = one_of("MLP", "LSTM")
    hidden: int = number(ge=1)
    layers: int = number(ge=1)
    dropout: float = number(ge=0, le=0.9)
    init: str = one_of(*PROMPT_STARTS)
    init_text: str = MISSING


@packaged("method/tuner/prefix_tuning")
@dataclass
class PrefixTuningConfig(TunerConfig):
    """Trained keys and values in front of every layer's (peft's PREFIX_TUNING)."""

    num_virtual_tokens: int = number(ge=1)
    projection: bool = MISSING
    projection_hidden: int = number(ge=1)
    init: str = one_of("vocab", "text", "labels", "random")
    init_text: str = MISSING


@packaged("method/tuner/recurrence")
@dataclass
class RecurrenceConfig(TunerConfig):
    """A trained memory between the windows of a text longer than the encoder's positions."""

    window: int | None = number(ge=2)
    block: int | None = number(ge=0)
    horizon: int = number(ge=1)


@dataclass
class AdapterConfig(TunerConfig):
    """What all bottleneck adapters have: small networks at the sub-layers of the frozen backbone."""

    train_norms: bool = MISSING


@dataclass
class BottleneckConfig(AdapterConfig):
    """Adapters whose width is given, or derived from the backbone's."""

    bottleneck: int | None = number(ge=1)
    reduction_factor: float = number(ge=1)


@packaged("method/tuner/houlsby")
@dataclass
class HoulsbyConfig(BottleneckConfig):
    """Adapters behind attention and feed-forward."""

    activation: str = one_of("relu", "gelu", "silu")
    dropout: float = number(ge=0, le=0.9)


@packaged("method/tuner/pfeiffer")
@dataclass
class PfeifferConfig(BottleneckConfig):
    """Adapters behind the feed-forward."""

    activation: str = one_of("relu", "gelu", "silu")
    dropout: float = number(ge=0, le=0.9)


@packaged("method/tuner/parallel")
@dataclass
class ParallelConfig(BottleneckConfig):
    """Scaled adapters beside the feed-forward."""

    reduction_factor: float = number(ge=1)
    activation: str = one_of("relu", "gelu", "silu")
    dropout: float = number(ge=0, le=0.9)
    scale: float = number(gt=0)


@packaged("method/tuner/mam")
@dataclass
class MamConfig(ParallelConfig, PrefixTuningConfig):
    """A prefix in the attention and a scaled adapter beside the feed-forward: the knobs of both."""

    num_virtual_tokens: int = number(ge=1)


@packaged("method/tuner/lite")
@dataclass
class LiteConfig(AdapterConfig):
    """LiST's linear adapters behind attention and feed-forward."""

    bottleneck: int = number(ge=1)
    init_std: float = number(gt=0)


@packaged("method/tuner/compacter")
@dataclass
class CompacterConfig(BottleneckConfig):
    """Adapters of Kronecker products with shared factors."""

    train_norms: bool = MISSING
    reduction_factor: float = number(ge=1)
    place: str = one_of("houlsby", "pfeiffer")
    activation: str = one_of("relu", "gelu", "gelu_new", "silu")
    phm_dim: int = number(ge=1)
    phm_rank: int = number(ge=1)


@packaged("method/tuner/conv_adapter")
@dataclass
class ConvAdapterConfig(BottleneckConfig):
    """Convolution adapters and their placement grid."""

    reduction_factor: float = number(ge=1)
    block: str = one_of("bottleneck", "conformer", "convpass")
    place: str = one_of("houlsby", "pfeiffer")
    mode: str = one_of("parallel", "sequential")
    residual: bool | None = MISSING
    kernel: int = number(ge=1)
    dropout: float = number(ge=0, le=0.9)


@packaged("method/tuner/bitfit")
@dataclass
class BitfitConfig(TunerConfig):
    """Only biases are trained."""

    biases: str = one_of("all", "query_mlp")
    add_missing: bool = MISSING


@packaged("method/tuner/hft")
@dataclass
class HftConfig(TunerConfig):
    """Half fine-tuning: a random half of the matrices is frozen for a round."""

    freeze_ratio: float = number(ge=0, le=1)
    level: str = one_of("category", "layer", "model")
    resample: str = one_of("round", "never")
    round: int = number(ge=0)
    mask_seed: int | None = number(ge=0)


@packaged("method/tuner/embed_head")
@dataclass
class EmbedHeadConfig(TunerConfig):
    """Word embeddings and the language-model head are trained."""


@packaged("method/tuner/last_layer")
@dataclass
class LastLayerConfig(TunerConfig):
    """The last block or blocks are trained."""

    layers: int = number(ge=1)


TUNER_SCHEMAS: dict[str, type[TunerConfig]] = {
    "none": NoTuner,
    "full": FullConfig,
    "head_only": HeadOnlyConfig,
    "lora": LoraConfig,
    "adalora": AdaLoraConfig,
    "peft": PeftTypeConfig,
    "file": FileConfig,
    "prompt_tuning": PromptTuningConfig,
    "bayesprompt": BayesPromptConfig,
    "dept": DeptConfig,
    "ept": EptConfig,
    "iapt": IaptConfig,
    "p_tuning": PTuningConfig,
    "prefix_tuning": PrefixTuningConfig,
    "recurrence": RecurrenceConfig,
    "houlsby": HoulsbyConfig,
    "pfeiffer": PfeifferConfig,
    "parallel": ParallelConfig,
    "mam": MamConfig,
    "lite": LiteConfig,
    "compacter": CompacterConfig,
    "conv_adapter": ConvAdapterConfig,
    "bitfit": BitfitConfig,
    "hft": HftConfig,
    "embed_head": EmbedHeadConfig,
    "last_layer": LastLayerConfig,
}
