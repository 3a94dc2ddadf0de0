"""From a command line to a checked `RunConfig`. Imports neither torch nor anything that does."""

from peftbench.config.load import compose, to_run_config

__all__ = ["compose", "to_run_config"]
