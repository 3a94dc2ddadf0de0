"""From a config to a learner: backbone, tuner and formulation are chosen, loaded and put together here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftbench.errors import UsageError
from peftbench.formulations import formulation_class

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.learner import Learner
    from peftbench.measure.clock import PhaseClock
    from peftbench.tasks.base import TaskData


def build_learner(cfg: RunConfig, data: TaskData, clock: PhaseClock) -> tuple[Learner, dict[str, Any]]:
    """A fresh learner on the CPU, and facts about its backbone for the record.

    Raises:
        UsageError: the backbone cannot be had, or tuner, formulation and backbone do not fit each other.
    """
    with clock("import"):
        import torch

        from peftbench.learner import Learner
        from peftbench.models import load_backbone
        from peftbench.tuners import build_tuner
        from peftbench.tuners.base import TunerContext

    chosen = formulation_class(cfg.method.formulation, cfg.model.family, cfg.shots, data.problem)
    tuner = build_tuner(cfg.method.tuner)
    if cfg.model.family not in tuner.families:
        fits = ", ".join(sorted(tuner.families))
        raise UsageError(f"method={cfg.method.name} does not fit a {cfg.model.family} backbone. It fits: {fits}.")
    with clock("model"):
        backbone = load_backbone(cfg.model, chosen.purpose, dropout=cfg.trainer.dropout)
    with clock("method"):
        torch.manual_seed(cfg.seed)
        formulation = chosen(backbone, data, cfg.trainer.max_length, cfg.method.formulation)
        words = tuple(data.label_words.get(label, label) for label in data.labels)
        learner = Learner(backbone, tuner, formulation, TunerContext(cfg.trainer.max_length, words, cfg.seed))
    if not learner.param_groups() and "supervised" in cfg.method.stages and cfg.shots != 0:
        raise UsageError(
            f"method={cfg.method.name}: nothing to train, since the `{chosen.__name__}` has no head of its own. "
            "Use method/formulation=head, or a method that trains the backbone."
        )
    facts = {
        "family": backbone.family,
        "revision": backbone.revision,
        "source": backbone.source,
        "pooling": backbone.pooling,
        "hidden_size": backbone.hidden_size,
        "formulation": chosen.__name__.removesuffix("Formulation").lower(),
    }
    return learner, facts
