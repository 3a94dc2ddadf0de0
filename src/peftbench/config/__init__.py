"""From a command line to a checked `RunConfig`. Imports neither torch nor anything that does, and Hydra when needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.config.load import compose, to_run_config

__all__ = ["compose", "to_run_config"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from peftbench.config import load

        return getattr(load, name)
    raise AttributeError(name)
