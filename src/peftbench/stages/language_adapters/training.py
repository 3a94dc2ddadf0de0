"""MAD-X's two stages: adapters of the languages from unlabelled text, then the task's adapter on top of them.

Pfeiffer et al., EMNLP 2020, arXiv 2005.00052, sections 3.1 and 3.2. A language's adapters depend on the backbone, the
text and the options alone, not on the run's seed or task: they are trained once on a machine, kept in the cache by the
content of these, and read from there by every other run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from peftbench.cache import build_once
from peftbench.errors import UsageError
from peftbench.formulations.mlm import MlmFormulation
from peftbench.learner import Learner
from peftbench.models import load_backbone
from peftbench.models.checks import check_length
from peftbench.models.content import content_id
from peftbench.models.hashing import content_hash
from peftbench.models.outline import outline
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.continued_pretraining.training import mean_loss
from peftbench.stages.language_adapters.texts import Pool, languages, pools
from peftbench.stages.learning import LearnerPredictor, fresh
from peftbench.stages.supervised.training import supervised
from peftbench.tasks import data_dir
from peftbench.tasks.base import Row, bare_task
from peftbench.tasks.unlabelled import RUN, Document
from peftbench.training.loop import train
from peftbench.tuners.base import TunerContext
from peftbench.tuners.madx.tuner import LanguageTuner, MadxTuner, language_tensors, languages_in

VERSION = 1
"""Raised when the same text and options would give other adapters."""
ADAPTER, FACTS = "adapter.safetensors", "facts.json"
GROUP = "language"


def language_adapters(context: Context, incoming: Predictor | None) -> Predictor:
    """Bring the adapters of the run's languages into a fresh learner, trained now or taken from the cache. That which
    is trained in is spoken.

    Raises:
        UsageError: the backbone has no masked-LM head, or a language no text.
    """
    report, folders = StageReport("language_adapters"), {}
    with context.clock("data"):
        found = pools(context.cfg, data_dir(context.cfg), context.draw.test)
    for language, pool in found.items():
        with context.part(language):
            part = StageReport(language)
            folders[language] = adapters_of(context, language, pool, part)
            report.add_part(part)
            report.notes += part.notes
    predictor = incoming if isinstance(incoming, LearnerPredictor) else fresh(context)
    learner, tuner = predictor.learner, tuner_of(predictor)
    for language, folder in reversed(folders.items()):
        if folder is not None:
            tuner.put_language(learner.model, language, load_file(folder / ADAPTER), str(folder / ADAPTER))
    context.reports.append(report)
    return predictor


def task_adapter(context: Context, incoming: Predictor | None) -> Predictor:
    """The `supervised` stage in the language that is trained in; then that which is tested in is spoken. A trial of a
    search, which looks at dev alone, stays in the first."""
    predictor = supervised(context, incoming)
    context.reports[-1].name = "task_adapter"
    tuner, model = tuner_of(predictor), predictor.learner.model  # type: ignore[attr-defined]
    *_, target = languages(context.cfg.task)
    if context.cfg.evaluate != "dev" and languages_in(model):
        tuner.speak(model, target)
    return predictor


def tuner_of(predictor: Predictor) -> MadxTuner:
    """The learner's tuner. Raises UsageError if it has no place for languages."""
    tuner = predictor.learner.tuner if isinstance(predictor, LearnerPredictor) else None
    if not isinstance(tuner, MadxTuner):
        raise UsageError("method.stages: language_adapters and task_adapter fill method/tuner=madx, no other.")
    return tuner


class Diverged(Exception):
    """A language's adapters came to nothing, and are not kept."""


def adapters_of(context: Context, language: str, pool: Pool, report: StageReport) -> Path | None:
    """The folder with a language's adapters, trained if they are not there yet; None if that diverged. Another process
    that wants the same ones meanwhile waits for them. `report` tells what this run did, and what they are."""
    wanted = key(context, pool)
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def build(folder: Path) -> None:
        made = fit(context, language, pool, folder, report)
        (folder / FACTS).write_text(json.dumps({"made": made, "key": wanted}, indent=1) + "\n", encoding="utf-8")

    try:
        with context.attempt.held():
            folder = build_once(f"language-adapter-{digest}", build)
    except Diverged:
        return None
    report.facts = {
        **json.loads((folder / FACTS).read_text(encoding="utf-8"))["made"],
        "sha256": content_hash([folder / ADAPTER]),
        "text_sha256": pool.sha256(),
        "sentences": pool.sentences,
        "dropped": pool.dropped,
        "read_from": "training" if report.steps else "cache",
    }
    report.notes.append(words(language, report))
    return folder


def words(language: str, report: StageReport) -> str:
    """What a reader of the result must know of a language's adapters."""
    facts: dict[str, Any] = report.facts
    how = "trained here" if report.steps else f"from the cache ({facts['cpu_seconds']:.0f} CPU s when it was trained)"
    if facts["held_out_loss"] is None:
        losses = "no text held out"
    else:
        bare, after = facts["held_out_loss_bare"], facts["held_out_loss"]
        losses = f"masked-LM loss on held-out text {bare:.3f} without it, {after:.3f} with"
    dropped = f"{facts['dropped']} of {facts['sentences']} sentences shared {RUN} characters with evaluation: dropped"
    return f"language adapter {language}: {how}, {facts['made_steps']} steps; {losses}; {dropped}"


def key(context: Context, pool: Pool) -> dict[str, Any]:
    """What a language's adapters follow from."""
    cfg = context.cfg
    options, tuner = asdict(cfg.method.options("language_adapters")), asdict(cfg.method.tuner)
    for name in ("texts", "task_texts", "characters", "micro_batch"):  # the text itself says more
        options.pop(name)
    for name in ("name", "reduction_factor", "bottleneck"):  # of the task's adapter
        tuner.pop(name)
    trainer = {name: getattr(cfg.trainer, name) for name in ("schedule", "clip", "dropout", "attention")}
    return {
        "version": VERSION,
        "backbone": content_id(cfg.model),
        "prefix": cfg.model.prefix,
        "load": cfg.model.load,
        "texts": pool.sha256(),
        "options": options,
        "tuner": tuner,
        "trainer": trainer,
        "weight_decay": cfg.method.weight_decay,
        "precision": context.precision,
        "device": context.processes().device.type,
    }


def fit(context: Context, language: str, pool: Pool, folder: Path, report: StageReport) -> dict[str, Any]:
    """Train a language's adapters, write them to `folder` and tell what it took."""
    cfg = context.cfg.method.options("language_adapters")
    before = context.clock.cpu.copy()
    learner = language_learner(context, language)
    predictor = LearnerPredictor(learner, context)
    with context.clock("data"):
        rows = packed(learner, pool.train, "train")
        held = packed(learner, pool.held_out, "held_out")
    items = [item for item in predictor.encode(rows) if item.weight]

    def loss() -> float | None:
        with context.clock("eval"), context.meter.phase("eval"):
            return mean_loss(predictor.predict(held)) if held else None

    with learner.tuner.disabled(learner.model):  # type: ignore[union-attr]
        bare = loss()
    report.lr = {GROUP: cfg.lr}
    with context.clock("train"), context.meter.phase("train"):
        result = train(
            learner,
            items,
            cfg=trainer_of(context),
            lr=report.lr,
            weight_decay=context.cfg.method.weight_decay,
            seed=cfg.seed,
            select="last",
            evaluate=None,
            clock=context.clock,
            dist=context.processes(),
            folder=context.stage_folder(language),
            attempt=context.attempt,
        )
    report.status, report.reason, report.seconds = result.status, result.reason, result.seconds
    report.steps, report.tokens, report.curves = result.steps, result.tokens, result.curves
    if result.status == "diverged":
        raise Diverged
    after = loss()
    save_file(language_tensors(learner.model, language), folder / ADAPTER)
    spent = sum(seconds - before.get(phase, 0.0) for phase, seconds in context.clock.cpu.items())
    return {
        "made_steps": result.steps,
        "made_tokens": result.tokens,
        "train_seconds": result.seconds,
        "cpu_seconds": spent,
        "parameters": sum(p.numel() for group in learner.param_groups().values() for p in group),
        "held_out_tokens": sum(item.weight for item in predictor.encode(held)) if held else 0.0,
        "held_out_loss_bare": bare,
        "held_out_loss": after,
    }


def language_learner(context: Context, language: str) -> Learner:
    """A masked LM whose adapters of one language are fresh and all that is trained.

    Raises:
        UsageError: the backbone is no encoder with a masked-LM head, or takes shorter texts.
    """
    run, cfg = context.cfg, context.cfg.method.options("language_adapters")
    tuner, around = LanguageTuner(run.method.tuner), TunerContext(cfg.max_length, (), cfg.seed)
    tuner.language = language
    with context.clock("model"):
        tuner.check(outline(run.model, "mlm"), around)
        backbone = load_backbone(run.model, "mlm", dropout=run.trainer.dropout)
    check_length(backbone, cfg.max_length, key="method.language_adapters.max_length")
    with context.clock("method"):
        mlm = MlmFormulation(
            backbone, bare_task(context.data), cfg.max_length, run.method.formulation, share=cfg.mask_share
        )
        learner = Learner(backbone, tuner, mlm, around)
    return learner.to(context.processes().device)


def trainer_of(context: Context) -> Any:
    """The run's trainer with the stage's own length, batch and warm-up."""
    cfg = context.cfg.method.options("language_adapters")
    own: Any = {name: getattr(cfg, name) for name in ("steps", "batch_size", "micro_batch", "warmup", "max_length")}
    return replace(context.cfg.trainer, **own, epochs=None, eval_every=None, patience=None)


def packed(learner: Learner, documents: Sequence[Document], name: str) -> list[Row]:
    """Rows of as many neighbouring sentences of a document as there is room for in a sequence."""
    formulation, rows = learner.formulation, []
    tokenizer, room = formulation.tokenizer, formulation.max_length - 2
    room -= len(tokenizer(learner.backbone.prefix, add_special_tokens=False)["input_ids"])
    sentences = [sentence for found in documents for sentence in found]
    ids = tokenizer(sentences, add_special_tokens=False, verbose=False)["input_ids"] if sentences else []
    lengths = map(len, ids)
    for found in documents:
        line: list[str] = []
        used = 0
        for sentence in found:
            length = next(lengths)
            if line and used + length > room:
                rows.append(" ".join(line))
                line, used = [], 0
            line.append(sentence)
            used += length
        rows.append(" ".join(line))
    return [Row(f"{name}:{number}", text, None) for number, text in enumerate(rows)]
