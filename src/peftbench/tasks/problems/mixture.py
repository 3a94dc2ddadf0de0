"""`mixture`: tuples whose elements depend on the task that a row belongs to, as the parts of `task=absa_all` ask for.

A row's `domain` names its part. Scores are those of `tuples`, over the rows of all parts and of each part apart.
"""

from __future__ import annotations

from dataclasses import replace

from peftbench.tasks.problems.tuples import PROBLEM as TUPLES

PROBLEM = replace(TUPLES, name="mixture", mark="parts", strata="domain")
