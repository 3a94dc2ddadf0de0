"""`wordings`: one question in several words. All are asked, and mean, spread and worst recorded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from peftbench.config.schema import FormulationConfig, number, one_of, packaged
from peftbench.formulations.declared import Declared, fingerprint
from peftbench.formulations.prompts import is_written_out, packaged_sets

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig

OF_TASK = "task"
"""What `method.formulation.templates` may be besides a file: those of `task.templates`."""


@packaged("method/formulation/wordings")
@dataclass
class WordingsConfig(FormulationConfig):
    """`conf/method/formulation/wordings.yaml`."""

    templates: str = MISSING
    templates_sha256: str | None = MISSING
    """Fingerprint of the file that `templates` names, set when the config is composed."""
    part: str | None = MISSING
    observed: int = number(ge=1)
    order_seed: int | None = number(ge=0)
    train_on: str = one_of("observed", "reference")
    words: str = one_of("own", "task")
    likelihood: str = one_of("mean", "sum", "byte")


def settle(cfg: WordingsConfig) -> None:
    """Put the path and the SHA-256 of a user's file into the options.

    Raises:
        UsageError: there is no such file, or it is not the one that the run began with.
    """
    if cfg.templates == OF_TASK or cfg.templates in packaged_sets() or is_written_out(cfg.templates):
        return
    sets = ", ".join([OF_TASK, *packaged_sets()])
    fingerprint(cfg, "templates", f"neither a file nor one of {sets}.")


def contents(run: RunConfig) -> dict[str, str]:
    """For the run's name: a hash of the task's own templates, where they are asked for."""
    cfg = run.method.formulation
    if not isinstance(cfg, WordingsConfig) or cfg.templates != OF_TASK:
        return {}
    text = json.dumps(run.task.templates_of(run.task.subset), sort_keys=True, ensure_ascii=False)
    return {"templates": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"}


FORMULATION = Declared(
    "peftbench.formulations.wordings.formulation:WordingsFormulation",
    frozenset({"seq2seq", "causal"}),
    options=WordingsConfig,
    uses=("task.label_words",),
    problems=frozenset({"classification"}),
    can_answer_untrained=True,
    settle=settle,
    contents=contents,
)
