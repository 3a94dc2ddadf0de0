"""The inference `plain`: the learner's own answers."""

from __future__ import annotations

from peftbench.inference.base import Declared

INFERENCE = Declared(None, neutral=lambda options: True)
