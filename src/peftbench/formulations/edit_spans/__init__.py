"""`edit_spans`: what changes is written, as places in the text, and not the whole answer."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import packaged
from peftbench.formulations.declared import Declared
from peftbench.formulations.generate import GenerateConfig


@packaged("method/formulation/edit_spans")
@dataclass
class EditSpansConfig(GenerateConfig):
    """`conf/method/formulation/edit_spans.yaml`."""

    numbered: bool = MISSING


FORMULATION = Declared(
    "peftbench.formulations.edit_spans.formulation:EditSpansFormulation",
    frozenset({"seq2seq", "causal"}),
    options=EditSpansConfig,
    problems=frozenset({"text", "tuples"}),
    can_answer_untrained=True,
)
