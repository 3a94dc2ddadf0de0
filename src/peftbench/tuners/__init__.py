"""What is trained. Importing this package registers DePT with peft, so that peft can load adapters of that type."""

from __future__ import annotations

from peftbench.config.schema import TunerConfig
from peftbench.errors import UsageError, did_you_mean
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.dept import DeptTuner, register_dept
from peftbench.tuners.lora import LoraTuner
from peftbench.tuners.plain import FrozenTuner, FullTuner
from peftbench.tuners.prompt_tuning import PromptTuningTuner

__all__ = ["ParamGroups", "Tuner", "TunerContext", "build_tuner"]

TUNERS: dict[str, type[Tuner]] = {
    "none": FrozenTuner,
    "head_only": FrozenTuner,
    "full": FullTuner,
    "lora": LoraTuner,
    "prompt_tuning": PromptTuningTuner,
    "dept": DeptTuner,
}
"""Name in `method.tuner.name` -> tuner."""

register_dept()


def build_tuner(cfg: TunerConfig) -> Tuner:
    """The tuner that a `method.tuner` section names.

    Raises:
        UsageError: there is none of that name.
    """
    if cfg.name not in TUNERS:
        raise UsageError(f"method.tuner.name={cfg.name}: no such tuner. {did_you_mean(cfg.name, TUNERS)}")
    return TUNERS[cfg.name](cfg)
