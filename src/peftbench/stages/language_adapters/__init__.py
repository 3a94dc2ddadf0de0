"""The `language_adapters` stage: MAD-X's adapters of the languages that a run trains and tests in."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.components import INPUT
from peftbench.config.schema import RunConfig, number, packaged
from peftbench.errors import UsageError, a_or_an
from peftbench.stages.base import Stage


@packaged("method/madx", "language_adapters")
@dataclass
class LanguageAdaptersOptions:
    """`method.language_adapters`: masked-LM training on unlabelled text of a language."""

    texts: str | None = MISSING
    task_texts: bool = MISSING
    characters: int | None = number(ge=1)
    mask_share: float = number(gt=0, le=1)
    steps: int = number(ge=1)
    batch_size: int = number(ge=1)
    micro_batch: int | None = number(ge=1)
    max_length: int = number(ge=8)
    lr: float = number(gt=0)
    warmup: float = number(ge=0)
    seed: int = number(ge=0)


def fits(run: RunConfig) -> None:
    """Raises UsageError if the tuner has no place for a language, the backbone is no masked LM, or nothing changes the
    language for the test."""
    if run.method.tuner.name != "madx":
        raise UsageError(
            f"method/tuner={run.method.tuner.name}: the stage language_adapters fills method/tuner=madx, no other."
        )
    if run.model.family != "encoder":
        raise UsageError(
            f"method={run.method.name} does not fit {a_or_an(run.model.family)} backbone: language adapters are "
            "trained by masked LM. Use an encoder with a masked-LM head, such as model=afro-xlmr-base or "
            "model=minilm-mlm."
        )
    if "task_adapter" not in run.method.stages:
        raise UsageError(
            "method.stages: behind language_adapters stands task_adapter, which changes the language for the test. Use "
            "'method.stages=[language_adapters,task_adapter]'."
        )


STAGE = Stage(
    run="peftbench.stages.language_adapters.training:language_adapters",
    options=LanguageAdaptersOptions,
    section="language_adapters",
    uses=(*INPUT, "trainer.schedule", "trainer.clip", "trainer.dropout", "method.weight_decay"),
    contents="peftbench.stages.language_adapters.texts:contents",
    fits=fits,
    several_processes=False,
    steps_key="method.language_adapters.steps",
)
