"""A dataclass behind every `conf/method/tuner/*.yaml`. Free of torch: the config is checked before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import TunerConfig, number, one_of


@dataclass
class NoTuner(TunerConfig):
    """For methods without a backbone."""


@dataclass
class FullConfig(TunerConfig):
    """All weights of the backbone are trained."""


@dataclass
class HeadOnlyConfig(TunerConfig):
    """The backbone stays frozen; only the formulation's head is trained."""


@dataclass
class LoraConfig(TunerConfig):
    """Low-rank updates of weight matrices (peft's LORA)."""

    rank: int = number(8, ge=1)
    alpha: float = number(16, gt=0)
    dropout: float = number(0.0, ge=0, le=0.9)
    target_modules: list[str] | None = None
    rslora: bool = False
    dora: bool = False


@dataclass
class PromptTuningConfig(TunerConfig):
    """Soft prompt in front of the embedded input (peft's PROMPT_TUNING)."""

    num_virtual_tokens: int = number(20, ge=1)
    init: str = one_of("vocab", "text", "labels", "random", default="vocab")
    init_text: str = ""


@dataclass
class DeptConfig(TunerConfig):
    """Decomposed prompt tuning: a short soft prompt and a low-rank offset of the input embeddings."""

    num_virtual_tokens: int = number(40, ge=0)
    rank: int | None = number(45, ge=0)
    budget_tokens: int | None = number(None, ge=1)
    alpha: float = number(8, ge=0)
    offset: str = one_of("position", "token", default="position")
    token_dropout: float = number(0.1, ge=0, le=0.9)
    init: str = one_of("vocab", "text", "labels", "random", default="text")
    init_text: str = ""


TUNER_SCHEMAS: dict[str, type[TunerConfig]] = {
    "none": NoTuner,
    "full": FullConfig,
    "head_only": HeadOnlyConfig,
    "lora": LoraConfig,
    "prompt_tuning": PromptTuningConfig,
    "dept": DeptConfig,
}
