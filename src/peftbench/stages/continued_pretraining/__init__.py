"""The `continued_pretraining` stage: masked-LM training on the task's unlabelled texts (TAPT, PCP)."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.components import TRAINING
from peftbench.config.schema import RunConfig, number, one_of, packaged, rates
from peftbench.errors import UsageError
from peftbench.stages.base import Stage


@packaged("method/pcp", "continued_pretraining")
@dataclass
class ContinuedPretrainingOptions:
    """`method.continued_pretraining`: masked-LM training on unlabelled texts (TAPT, PCP)."""

    corpus: str = one_of("plain", "templated")
    pseudo_labels: str = one_of("predicted", "random")
    threshold: float = number(ge=0, le=1)
    texts: int | None = number(ge=2)
    held_out: float = number(ge=0, le=0.5)
    mask_share: float = number(gt=0, le=1)
    always_mask_word: bool = MISSING
    steps: int | None = number(ge=1)
    epochs: float | None = number(gt=0)
    batch_size: int = number(ge=1)
    micro_batch: int | None = number(ge=1)
    eval_every: int | None = number(ge=1)
    max_length: int | None = number(ge=4)
    lr: dict[str, float] = rates()
    warmup: float = number(ge=0)
    beta2: float = number(ge=0, le=0.9999)
    epsilon: float = number(gt=0)


def fits(run: RunConfig) -> None:
    """Raises UsageError if lines may be longer than what the tuner is made for."""
    length, most = run.method.options("continued_pretraining").max_length, run.trainer.max_length
    if length is not None and length > most and run.method.tuner.is_bound_to_length():
        raise UsageError(
            f"method.continued_pretraining.max_length={length}: method.tuner.name={run.method.tuner.name} trains "
            f"something for each of trainer.max_length={most} positions. Use {most} or less, null, "
            f"trainer.max_length={length}, or another tuner."
        )


STAGE = Stage(
    fits=fits,
    results_version=2,
    run="peftbench.stages.continued_pretraining.training:continued_pretraining",
    options=ContinuedPretrainingOptions,
    section="continued_pretraining",
    uses=TRAINING,
    steps_key="method.continued_pretraining.steps",
)
