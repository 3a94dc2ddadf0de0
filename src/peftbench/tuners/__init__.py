"""What is trained. Each built-in tuner is a module or folder of this package that declares itself as `TUNER`; what
needs torch is imported with the tuner that is chosen."""

from __future__ import annotations

from peftbench.config import registry
from peftbench.config.schema import TunerConfig
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
    """The tuner that a `method.tuner` section names.

    Raises:
        UsageError: there is none of that name.
    """
    if registry.is_plugin("tuner", cfg.name):
        from peftbench.tuners.user_file import plugin_options

        return get_tuner(cfg.name)(plugin_options(cfg))
    return get_tuner(cfg.name)(cfg)


def register() -> None:
    """Import every built-in tuner, so that peft knows the adapter types of all of them."""
    for name in registry.built_in("tuner"):
        get_tuner(name).build_function()
