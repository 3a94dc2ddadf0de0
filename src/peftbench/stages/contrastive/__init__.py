"""The `contrastive` stage: an encoder trained on pairs of texts (SetFit, ranking losses)."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.components import TRAINING
from peftbench.config.schema import number, one_of, packaged
from peftbench.stages.base import Stage


@packaged("method/setfit", "contrastive")
@dataclass
class ContrastiveOptions:
    """`method.contrastive`: pairs of texts and the loss on them."""

    loss: str = one_of("cosine", "mnr", "mnr_plus")
    pairs: str = one_of("iterations", "drawn", "oversampling", "undersampling", "unique")
    iterations: int = number(ge=1)
    max_pairs: int | None = number(ge=1)
    scale: float = number(gt=0)
    epochs: float | None = number(gt=0)
    steps: int | None = number(ge=1)
    batch_size: int = number(ge=1)
    micro_batch: int | None = number(ge=1)
    warmup: float = number(ge=0)


STAGE = Stage(
    run="peftbench.stages.contrastive.training:contrastive",
    check="peftbench.stages.contrastive.training:check",
    options=ContrastiveOptions,
    section="contrastive",
    uses=TRAINING,
    one_training=True,
    steps_key="method.contrastive.steps",
)
