"""What is trained. Each built-in tuner is a module or folder of this package that declares itself as `TUNER`; what
needs torch is imported with the tuner that is chosen."""

from __future__ import annotations

from peftbench.config import registry
from peftbench.config.schema import PluginTunerConfig, TunerConfig
from peftbench.config.sections import build
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext, TunerDeclaration

__all__ = ["ParamGroups", "Tuner", "TunerContext", "TunerDeclaration", "build_tuner", "get_tuner", "register"]


def get_tuner(name: str) -> TunerDeclaration:
    """The tuner of that name, of a file or of `module:OBJECT`. A built-in one is not imported yet.

    Raises:
        UsageError: there is none.
    """
    found = registry.get("tuner", name)
    return found if isinstance(found, TunerDeclaration) else TunerDeclaration(found, found.options or TunerConfig)


def build_tuner(cfg: TunerConfig) -> Tuner:
    """The tuner that a `method.tuner` section names; the options of a plug-in are checked by the dataclass that it
    declares.

    Raises:
        UsageError: there is none of that name, or an option of a plug-in is not a field of its dataclass.
    """
    declared = get_tuner(cfg.name)
    if isinstance(cfg, PluginTunerConfig):
        options = {"name": registry.title(cfg.name), **cfg.options}
        return declared(build(declared.options, options, "method.tuner.options"))
    return declared(cfg)


def register() -> None:
    """Import every built-in tuner, so that peft knows the adapter types of all of them."""
    for name in registry.built_in("tuner"):
        get_tuner(name).build_function()
