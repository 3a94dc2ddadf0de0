"""From a config to a learner: backbone, tuner and formulation are chosen, loaded and put together here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from peftbench.config import registry
from peftbench.errors import UsageError, a_or_an
from peftbench.formulations import formulation_class
from peftbench.formulations.declared import declaration
from peftbench.init_from import Source, source_of
from peftbench.passes.turns import here
from peftbench.stages import stages_of
from peftbench.tuners.base import WHOLE_BACKBONE

if TYPE_CHECKING:
    from torch import nn

    from peftbench.config.schema import MethodConfig, ModelConfig, RunConfig
    from peftbench.formulations.base import Formulation
    from peftbench.learner import Learner
    from peftbench.measure.clock import PhaseClock
    from peftbench.models.architecture import Purpose
    from peftbench.models.base import Backbone
    from peftbench.records.record import Record
    from peftbench.stages.base import Context
    from peftbench.tasks.base import Row, TaskData
    from peftbench.tuners.base import Tuner, TunerContext


def new_learner(record: Record, context: Context, cfg: RunConfig | None = None) -> Learner:
    """A fresh learner on this process's device, of the run's config or of a variation of it; the same config gives the
    same initial values. Facts about its backbone go into the record.

    Raises:
        UsageError: see `build_learner`; or the backbone is not the one that the run was named by.
    """
    from peftbench.training.precision import choose_attention

    learner, record.model_info = build_learner(cfg or context.cfg, context.data, context.clock, context.draw.train)
    revision = record.model_info["revision"]
    named = (record.identity.get("contents") or {}).get("model", revision)
    if revision != named:
        raise UsageError(
            f"model={context.cfg.model.name} has changed since this run was named (then {named}, now {revision}). "
            "Give the command again: other weights are another run."
        )
    device = context.processes().device
    choose_attention(learner, context.cfg.trainer.attention, context.precision, device)
    if context.cfg.trainer.reuse_frozen:
        from peftbench.passes.frozen_blocks import FrozenBlocks

        learner.frozen = FrozenBlocks(learner.backbone, context.precision)
    learner.to(device)
    if (member := here()) is not None:
        from peftbench.passes.shared_pass import Together

        learner.together = Together(member, learner.backbone.model)
    return learner


def build_learner(
    cfg: RunConfig,
    data: TaskData,
    clock: PhaseClock,
    shots: Sequence[Row] = (),
    restoring: bool = False,
    weights: Path | None = None,
) -> tuple[Learner, dict[str, Any]]:
    """A fresh learner on the CPU, and facts about its backbone for the record.

    Args:
        shots: the drawn training rows.
        restoring: whether what it trains will be read from a file (`Learner.load`); `data` needs no rows then.
        weights: file with all weights of the backbone, in the place of the pre-trained ones; None: those of the run
            that `method.init_from` leads to, if that has trained them.

    Raises:
        UsageError: the backbone cannot be had, or tuner, formulation and backbone do not fit each other.
    """
    with clock("import"):
        import torch

        import peftbench.formulations.by_task  # what is imported here is no time of the model or the method
        import peftbench.tuners  # noqa: F401
        from peftbench.learner import Learner
        from peftbench.models import load_backbone
        from peftbench.models.checks import check_length
        from peftbench.tuners.budget import fit_budget

    source = source_of(cfg) if cfg.method.init_from is not None else None
    weights = source.weights if source is not None else weights
    parts = choose_parts(cfg, data, shots, restoring)
    with clock("model"):
        check_fit(parts.tuner, cfg.model, parts.purpose, parts.context)
        backbone = load_backbone(cfg.model, parts.purpose, dropout=cfg.trainer.dropout)
        if weights is not None:
            start_weights(backbone.model, weights)
    if not parts.tuner.reads_windows:
        check_length(backbone, parts.context.max_length, key=length_key(cfg))
    with clock("method"):
        torch.manual_seed(cfg.seed)
        formulation = pose(parts, backbone, data, cfg, shots)
        if cfg.method.budget is not None:
            fit_budget(parts.tuner, cfg.method.budget, backbone, parts.context)
        learner = Learner(backbone, parts.tuner, formulation, parts.context)
        if source is not None:
            warm_start(learner, source)
        learner.start = weights
    name = parts.chosen.recorded_name()
    posed = replace(cfg.method.formulation, name=name)
    learner.config = replace(cfg, method=replace(cfg.method, formulation=posed))
    check_trains(learner, cfg, parts.chosen.__name__)
    return learner, {**backbone.facts(), "formulation": name}


class Parts(NamedTuple):
    """What a learner will be made of, before weights are loaded.

    Attributes:
        classes: task -> its formulation; "" is the name of a task that stands alone.
        context: what the tuner may know.
    """

    tuner: Tuner
    classes: dict[str, type[Formulation]]
    purpose: Purpose
    context: TunerContext

    @property
    def chosen(self) -> type[Formulation]:
        """The formulation, of a sequence that of the first task."""
        return next(iter(self.classes.values()))


def choose_parts(cfg: RunConfig, data: TaskData, shots: Sequence[Row], restoring: bool) -> Parts:
    """Tuner and formulation, asked whether they fit the config and the data. Raises UsageError if not."""
    from peftbench.formulations.by_task import one_purpose
    from peftbench.tuners import build_tuner
    from peftbench.tuners.base import TunerContext

    check_calibration(cfg.method)
    check_trained_by(cfg.method)
    classes = {
        name: formulation_class(cfg.method.formulation, cfg.model.family, cfg.labelled, task.problem)
        for name, task in (data.tasks or {"": data}).items()
    }
    purpose = one_purpose(classes, data.shared_head)
    tuner = build_tuner(cfg.method.tuner)
    check_family(tuner, cfg)
    check_format(cfg)
    first, start = next(iter(data.tasks.items()), ("", data))  # of a sequence nothing is known yet but its first task
    words = tuple(start.label_words.get(label, label) for label in start.labels)
    seen = [row for row in shots if not data.tasks or row.domain == first]
    longest = getattr(cfg.method.formulation, "max_length", None) or cfg.trainer.max_length
    context = TunerContext(longest, words, cfg.seed, start.train, seen, start.domains, restoring)
    for name, made in classes.items():
        made.check(data.tasks.get(name, data), cfg.method.formulation)
    return Parts(tuner, classes, purpose, context)


def length_key(cfg: RunConfig) -> str:
    """The key that says how long an input may be: the formulation's own, if it has one that is set."""
    own = getattr(cfg.method.formulation, "max_length", None)
    return "method.formulation.max_length" if own else "trainer.max_length"


def pose(parts: Parts, backbone: Backbone, data: TaskData, cfg: RunConfig, shots: Sequence[Row]) -> Formulation:
    """The formulation on its backbone: of a sequence of tasks, one of them all."""
    from peftbench.formulations.by_task import ByTask

    longest, options = parts.context.max_length, cfg.method.formulation
    if data.tasks:
        return ByTask(backbone, data, longest, options, parts.classes, shots)
    return parts.chosen(backbone, data, longest, options)


def check_trains(learner: Learner, cfg: RunConfig, formulation: str) -> None:
    """Raises UsageError if stages train and there is nothing that they could."""
    trains = any(stage.trains for stage in stages_of(cfg.method.stages))
    if not learner.param_groups() and trains and cfg.labelled != 0:
        raise UsageError(
            f"method={cfg.method.name}: nothing to train, since the `{formulation}` has no head of its own. "
            "Use method/formulation=head, or a method that trains the backbone."
        )


def check_family(tuner: Tuner, cfg: RunConfig) -> None:
    """Raises UsageError if the tuner is not made for the backbone's family."""
    if cfg.model.family not in tuner.families:
        fits = ", ".join(sorted(tuner.families))
        why = f": {tuner.why_families}" if tuner.why_families else ""
        raise UsageError(
            f"method={cfg.method.name} does not fit {a_or_an(cfg.model.family)} backbone{why}. It fits: {fits}."
        )


def check_fit(tuner: Tuner, cfg: ModelConfig, purpose: Purpose, context: TunerContext) -> None:
    """Asks the tuner for its doubts from the model's config alone, before weights are loaded or downloaded.

    Raises:
        UsageError: the pair cannot work.
    """
    from peftbench.models.outline import outline
    from peftbench.tuners.base import Tuner
    from peftbench.tuners.ranks import check_ranks

    if type(tuner).check is Tuner.check and type(tuner).ranks is Tuner.ranks:
        return
    backbone = outline(cfg, purpose)
    tuner.check(backbone, context)
    check_ranks(tuner.ranks(backbone, context), backbone.name)


def check_format(cfg: RunConfig) -> None:
    """Raises UsageError if the method cannot train on weights of the format `model.load`."""
    from peftbench.models import formats
    from peftbench.training.distributed import choose_device
    from peftbench.training.precision import resolve

    if cfg.model.load == "fp32":
        return
    precision = resolve(cfg.trainer.precision, choose_device(cfg.trainer.device, 0))
    trains = getattr(registry.get("tuner", cfg.method.tuner.name), "trains_weights", False)
    formats.check(cfg.model, trains, cfg.method.name, precision)


def check_calibration(method: MethodConfig) -> None:
    """Raises UsageError if the formulation needs a prior and no stage measures it."""
    chosen = getattr(method.formulation, "calibration", "none")
    if chosen != "none" and not any(stage.calibrates for stage in stages_of(method.stages)):
        needed = [name for name in sorted(registry.built_in("stage")) if registry.get("stage", name).calibrates]
        stages = ",".join([*needed, *method.stages])
        raise UsageError(
            f"method.formulation.calibration={chosen}: no stage measures the prior. Add one, "
            f"'method.stages=[{stages}]', or set calibration=none."
        )


def check_trained_by(method: MethodConfig) -> None:
    """Raises UsageError if a stage makes optimiser steps that the formulation cannot be trained with."""
    fits = declaration(method.formulation.name).trained_by
    for name, stage in zip(method.stages, stages_of(method.stages), strict=True):
        if fits and stage.trains and name not in fits:
            raise UsageError(
                f"method/formulation={method.formulation.name} is trained by the stage {' or '.join(fits)}, not by "
                f"{name}. Use 'method.stages=[{fits[0]}]', or method/formulation=head."
            )


def start_weights(network: nn.Module, file: Path) -> None:
    """Put the weights of a run that has trained the whole backbone in the place of the pre-trained ones.

    Raises:
        UsageError: they are of another network.
    """
    from safetensors.torch import load_model

    try:
        load_model(network, str(file))
    except (RuntimeError, OSError) as error:
        words = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{file}: the weights that the run starts from do not fit ({words}). It has to pose its task as the run "
            "did that trained them: with a head, or as a language model (method/formulation)."
        ) from None


def warm_start(learner: Learner, source: Source) -> None:
    """Put what another run has trained into the tuner, unless that was the backbone; the head stays fresh (PVP, SPoT,
    PPT)."""
    if source.weights != source.folder / WHOLE_BACKBONE:
        learner.tuner.warm_start(learner.model, source.folder)
    learner.tuner.notes.append(source.note)
