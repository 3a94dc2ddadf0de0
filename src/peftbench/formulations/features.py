"""`features`: the classical methods and the floors, which take no tuner (`peftbench.stages.classical`)."""

from __future__ import annotations

from peftbench.formulations.declared import Declared

FORMULATION = Declared()
