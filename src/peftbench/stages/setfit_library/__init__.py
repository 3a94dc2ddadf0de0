"""The `setfit_library` stage: the setfit library as it is, from the run's backbone and draw. An independent peer."""

from __future__ import annotations

from peftbench.config.components import INPUT
from peftbench.stages.base import Stage
from peftbench.stages.contrastive import ContrastiveOptions

STAGE = Stage(
    run="peftbench.stages.setfit_library.peer:setfit_library",
    check="peftbench.stages.setfit_library.peer:check",
    options=ContrastiveOptions,
    section="contrastive",
    uses=(*INPUT, "method.lr", "method.weight_decay"),
    several_processes=False,
    trains=False,
)
