"""The `sequence` stage: the method's own stage for one task after the other. No method names it: it runs where the
task is a sequence (`peftbench.tasks.sequence`)."""

from __future__ import annotations

from peftbench.stages.base import Stage

STAGE = Stage(run="peftbench.stages.sequence.tasks:sequence", of_tasks=True)
