"""The `continued_pretraining` stage: masked-LM training on the task's unlabelled texts (TAPT, PCP)."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.components import TRAINING
from peftbench.config.schema import number, one_of, rates
from peftbench.stages.base import Stage


@dataclass
class ContinuedPretrainingOptions:
    """`method.continued_pretraining`: masked-LM training on unlabelled texts (TAPT, PCP)."""

    corpus: str = one_of("plain", "templated", default="templated")
    pseudo_labels: str = one_of("predicted", "random", default="predicted")
    threshold: float = number(0.0, ge=0, le=1)
    texts: int | None = number(10000, ge=2)
    held_out: float = number(0.1, ge=0, le=0.5)
    mask_share: float = number(0.15, gt=0, le=1)
    always_mask_word: bool = False
    steps: int | None = number(None, ge=1)
    epochs: float | None = number(100, gt=0)
    batch_size: int = number(128, ge=1)
    micro_batch: int | None = number(16, ge=1)
    eval_every: int | None = number(500, ge=1)
    max_length: int | None = number(None, ge=4)
    lr: dict[str, float] = rates(default=1.0e-4)
    warmup: float = number(0.06, ge=0)
    beta2: float = number(0.98, ge=0, le=0.9999)
    epsilon: float = number(1e-6, gt=0)


STAGE = Stage(
    results_version=2,
    run="peftbench.stages.continued_pretraining.training:continued_pretraining",
    options=ContinuedPretrainingOptions,
    section="continued_pretraining",
    uses=TRAINING,
    steps_key="method.continued_pretraining.steps",
)
