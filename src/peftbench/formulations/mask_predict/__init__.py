"""`mask_predict`: a masked LM made an encoder and a decoder, which writes all tokens of an answer at once."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.config.schema import FormulationConfig, number, one_of, packaged
from peftbench.formulations.declared import Declared


@packaged("method/formulation/mask_predict")
@dataclass
class MaskPredictConfig(FormulationConfig):
    """`conf/method/formulation/mask_predict.yaml`."""

    rounds: int = number(ge=1)
    lengths: int = number(ge=1)
    length: str = one_of("absolute", "offset")
    answer_tokens: int | None = number(ge=1)


FORMULATION = Declared(
    "peftbench.formulations.mask_predict.formulation:MaskPredictFormulation",
    frozenset({"encoder"}),
    options=MaskPredictConfig,
    uses=("task.label_words",),
    problems=frozenset({"classification", "text"}),
)
