"""Configs for tests that are about something else: equal to `peftbench.config.compose`, at a fifth of its cost.

Files of the user's own are read and hashed once: a test that edits one composes in full.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

from peftbench.config.many import Composer
from peftbench.config.schema import RunConfig


@functools.cache
def _composer() -> Composer:
    return Composer()


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """The checked config of one run, which the caller may change."""
    return copy.deepcopy(_composer().compose(overrides))
