"""`generate`: the answer is written as text."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from peftbench.config.schema import FormulationConfig, number, one_of, packaged
from peftbench.errors import UsageError
from peftbench.formulations.declared import PROBLEMS, Declared


@packaged("method/formulation/generate")
@dataclass
class GenerateConfig(FormulationConfig):
    """`conf/method/formulation/generate.yaml`."""

    answer_tokens: int | None = number(None, ge=1)
    constrain: str = one_of("none", "labels", "tuples", default="none")
    sample: bool = False
    sample_seed: int = number(0, ge=0)
    samples: int = number(1, ge=1)
    temperature: float = number(1.0, gt=0)
    top_p: float = number(1.0, gt=0, le=1)


def settle(cfg: GenerateConfig) -> None:
    """Raises UsageError if the options need what is not installed."""
    if cfg.constrain == "tuples" and find_spec("llguidance") is None:
        raise UsageError(
            'method.formulation.constrain=tuples needs llguidance: pip install "peftbench[constrained]". '
            "constrain=none does not."
        )


FORMULATION = Declared(
    "peftbench.formulations.generate.formulation:GenerateFormulation",
    frozenset({"seq2seq", "causal"}),
    options=GenerateConfig,
    uses=("task.label_words",),
    results_version=2,  # the longest field gives way; answers are read through the tokenizer
    problems=PROBLEMS | {"tuples", "mixture", "answers", "text", "code"},
    can_answer_untrained=True,
    writes=lambda options: True,
    settle=settle,
    draws="text",
)
