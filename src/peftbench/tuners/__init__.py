"""What is trained. Importing this package registers DePT with peft, so that peft can load adapters of that type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peftbench.config import registry
from peftbench.config.schema import TunerConfig
from peftbench.errors import UsageError, did_you_mean
from peftbench.tuners.adalora import AdaLoraTuner
from peftbench.tuners.adapters import (
    CompacterTuner,
    ConvAdapterTuner,
    HoulsbyTuner,
    LiteTuner,
    ParallelTuner,
    PfeifferTuner,
    register_adapter,
)
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.bayesprompt_tuner import BayesPromptTuner
from peftbench.tuners.bitfit import BitfitTuner
from peftbench.tuners.dept import DeptTuner
from peftbench.tuners.dept_model import register_dept
from peftbench.tuners.ept import EptTuner, register_ept
from peftbench.tuners.hft import HftTuner
from peftbench.tuners.iapt import IaptTuner, register_iapt
from peftbench.tuners.lora import LoraTuner
from peftbench.tuners.mam import MamTuner
from peftbench.tuners.p_tuning import PTuningTuner
from peftbench.tuners.peft_type import PeftTypeTuner
from peftbench.tuners.plain import FrozenTuner, FullTuner
from peftbench.tuners.prefix_tuning import PrefixTuningTuner
from peftbench.tuners.prompt_tuning import PromptTuningTuner
from peftbench.tuners.recurrence import RecurrenceTuner
from peftbench.tuners.selective import EmbedHeadTuner, LastLayerTuner
from peftbench.tuners.user_file import plugin_tuner, tuner_from_config

__all__ = ["ParamGroups", "Tuner", "TunerContext", "build_tuner"]

TUNERS: dict[str, Callable[[Any], Tuner]] = {
    "none": FrozenTuner,
    "head_only": FrozenTuner,
    "full": FullTuner,
    "lora": LoraTuner,
    "adalora": AdaLoraTuner,
    "peft": PeftTypeTuner,
    "file": tuner_from_config,
    "prompt_tuning": PromptTuningTuner,
    "bayesprompt": BayesPromptTuner,
    "dept": DeptTuner,
    "ept": EptTuner,
    "iapt": IaptTuner,
    "p_tuning": PTuningTuner,
    "prefix_tuning": PrefixTuningTuner,
    "recurrence": RecurrenceTuner,
    "houlsby": HoulsbyTuner,
    "pfeiffer": PfeifferTuner,
    "parallel": ParallelTuner,
    "mam": MamTuner,
    "lite": LiteTuner,
    "compacter": CompacterTuner,
    "conv_adapter": ConvAdapterTuner,
    "bitfit": BitfitTuner,
    "hft": HftTuner,
    "embed_head": EmbedHeadTuner,
    "last_layer": LastLayerTuner,
}
"""Name in `method.tuner.name` -> tuner."""

register_adapter()
register_dept()
register_ept()
register_iapt()


def build_tuner(cfg: TunerConfig) -> Tuner:
    """The tuner that a `method.tuner` section names.

    Raises:
        UsageError: there is none of that name.
    """
    if registry.is_plugin("tuner", cfg.name):
        return plugin_tuner(cfg)
    if cfg.name not in TUNERS:
        raise UsageError(f"method.tuner.name={cfg.name}: no such tuner. {did_you_mean(cfg.name, TUNERS)}")
    return TUNERS[cfg.name](cfg)
