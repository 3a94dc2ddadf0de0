"""`embed`: one vector a text, compared by cosine. Untrained, a label is a text too; a pair's score is its cosine."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from peftbench.config.schema import FormulationConfig, MethodConfig, packaged
from peftbench.errors import UsageError
from peftbench.formulations.declared import Declared


@packaged("method/formulation/embed")
@dataclass
class EmbedConfig(FormulationConfig):
    """`conf/method/formulation/embed.yaml`."""

    label_text: str = MISSING


def check_embeds(method: MethodConfig, stage: str) -> None:
    """Raises UsageError unless the method's texts become vectors, which `stage` needs."""
    if not isinstance(method.formulation, EmbedConfig):
        raise UsageError(f"method={method.name}: the stage {stage} needs vectors. Use method/formulation=embed.")


FORMULATION = Declared(
    "peftbench.formulations.embed.formulation:EmbedFormulation",
    frozenset({"encoder", "causal"}),
    options=EmbedConfig,
    uses=("task.label_words",),
    problems=frozenset({"classification", "regression", "similarity"}),
    can_answer_untrained=True,
    trained_by=("contrastive",),
)
