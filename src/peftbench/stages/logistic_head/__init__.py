"""The `logistic_head` stage: a logistic regression on the vectors of the drawn rows, which then answers (SetFit)."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.components import INPUT
from peftbench.config.schema import number, packaged
from peftbench.stages.base import Stage


@packaged("method/setfit", "logistic_head")
@dataclass
class LogisticHeadOptions:
    """`method.logistic_head`: scikit-learn's logistic regression."""

    c: float = number(gt=0)
    max_iter: int = number(ge=1)


STAGE = Stage(
    run="peftbench.stages.logistic_head.fitting:logistic_head",
    check="peftbench.stages.logistic_head.fitting:check",
    options=LogisticHeadOptions,
    section="logistic_head",
    uses=INPUT,
    trains=False,
    modules=("sklearn.linear_model",),
)
