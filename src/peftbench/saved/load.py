"""What a run has trained, made again from its `adapter/` folder, to answer new rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peftbench.build import build_learner
from peftbench.config import registry
from peftbench.errors import UsageError
from peftbench.measure.clock import PhaseClock
from peftbench.records import manifest as manifests
from peftbench.records.manifest import Manifest
from peftbench.tasks.base import TaskData

if TYPE_CHECKING:
    from peftbench.config.schema import RunConfig
    from peftbench.formulations.base import Batch
    from peftbench.formulations.predictions import Prediction
    from peftbench.learner import Learner
    from peftbench.records.record import Record
    from peftbench.stages.base import Context
    from peftbench.tasks.base import Row
    from peftbench.training.distributed import Dist

SAVE_ALL = "trainer.save=all"


class Answerer(Protocol):
    """Something trained that answers rows."""

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """One prediction a row, in order."""


def adapter_folder(record: Record, run_folder: Path) -> Path:
    """The folder with what the run has trained.

    Raises:
        UsageError: the run is not done, or it was told not to save what it trained.
    """
    if record.status != "done":
        raise UsageError(f"run {record.run_id}: it is {record.status} ({record.reason}), so there is nothing to load.")
    folder = run_folder / "adapter"
    if not folder.is_dir():
        choice = (record.config.get("trainer") or {}).get("save")
        raise UsageError(
            f"run {record.run_id}: what it trained was not saved (trainer.save={choice}; auto leaves whole backbones "
            f"out, for their size). Run it again with {SAVE_ALL} rerun=true."
        )
    return folder


def load(folder: Path, manifest: Manifest, config: Mapping[str, Any] | None = None) -> Answerer:
    """What was trained, on the GPU if there is one.

    Args:
        folder: a run's `adapter/`.
        config: of the run's record: it knows where files of the user's lie on this machine, which a manifest does not.

    Raises:
        UsageError: the backbone cannot be had or is another than it was, or a file is missing.
    """
    placed = with_places(manifest, config or {})
    cfg, task = manifests.config_of(placed), manifests.task_of(placed)
    return (_classical if placed["kind"] == "classical" else SavedLearner)(folder, placed, cfg, task)


def with_places(manifest: Manifest, config: Mapping[str, Any]) -> Manifest:
    """The manifest with the paths of the run's config."""
    model, method = dict(manifest["model"]), dict(manifest["method"])
    known_model, known_method = config.get("model") or {}, config.get("method") or {}
    for key in manifests.PATHS:
        if model.get(key) is not None and known_model.get(key) is not None:
            model[key] = known_model[key]
    for name, section in method.items():
        known = known_method.get(name) or {}
        if isinstance(section, dict) and section.get("file") and known.get("file"):
            method[name] = {**section, "file": known["file"]}
    return {**manifest, "model": model, "method": method}


def check_content(manifest: Manifest, revision: str) -> None:
    """Raises UsageError if the backbone is not the one that was trained."""
    trained = manifest["backbone"]["revision"]
    if revision != trained:
        raise UsageError(
            f"run {manifest['run_id']}: the backbone model={manifest['model']['name']} has changed since (its content "
            f"was {trained}, and is {revision} now), and what was trained on it means nothing to another. Put the old "
            "one back, or run it again with rerun=true."
        )


class SavedLearner:
    """A learner with the weights of a run."""

    def __init__(self, folder: Path, manifest: Manifest, cfg: RunConfig, task: TaskData) -> None:
        self.learner, self.dist, self.precision = restored(folder, manifest, cfg, task)
        self.cfg = cfg

        chosen = cfg.method.inference
        self.inference = None if chosen is None else registry.get("inference", chosen.name)(chosen, self.learner)

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """One prediction a row, in order, drawn as the run has drawn its own."""
        return self.ask_learner(rows) if self.inference is None else self.inference.answer(rows, self.ask_learner)

    def ask_learner(
        self,
        rows: Sequence[Row],
        predict: Callable[[Batch], list[Prediction]] | None = None,
        learner: Learner | None = None,
    ) -> list[Prediction]:
        """One prediction a row, in order; see `peftbench.inference.base.Ask`."""
        from peftbench.training.predict import predict_all

        learner = learner or self.learner
        found = predict_all(
            learner,
            learner.encode(rows),
            cfg=self.cfg.trainer,
            dist=self.dist,
            precision=self.precision,
            predict=predict,
        )
        return learner.formulation.answers(rows, found)


def restored(folder: Path, manifest: Manifest, cfg: RunConfig, task: TaskData) -> tuple[Learner, Dist, str]:
    """The learner in eval mode, the process that it is in, and the number format of its passes."""
    from peftbench.training.distributed import Dist, choose_device
    from peftbench.training.precision import choose_attention, resolve

    dist = Dist(choose_device(cfg.trainer.device, 0))
    shown, start = manifests.shown_rows(manifest), manifests.start_of(manifest, folder)
    learner, facts = build_learner(cfg, task, PhaseClock(), shown, restoring=True, weights=start)
    check_content(manifest, facts["revision"])
    learner.load(folder, manifest.get("head"))
    precision = resolve(cfg.trainer.precision, dist.device)
    choose_attention(learner, cfg.trainer.attention, precision, dist.device)
    return learner.to(dist.device).eval(), dist, precision


def _classical(folder: Path, manifest: Manifest, cfg: RunConfig, task: TaskData) -> Answerer:
    from peftbench.stages.classical.floors import unfitted

    predictor = unfitted(_context(folder, cfg, task))
    predictor.load(folder)
    if manifest["backbone"]:
        check_content(manifest, predictor.features.loaded_backbone().revision)
    return predictor


def _context(folder: Path, cfg: RunConfig, task: TaskData) -> Context:
    """What features and estimators are made from: no rows, and one process."""
    from peftbench.measure.memory import MemoryMeter
    from peftbench.stages.base import Context
    from peftbench.tasks.protocols import Draw

    dist = None
    if cfg.method.needs_model:
        from peftbench.training.distributed import Dist, choose_device

        dist = Dist(choose_device(cfg.trainer.device, 0))
    none = Draw("", 1, "all", 0, 0, "last", (), (), (), {}, (), {}, ())
    return Context(cfg, task, none, PhaseClock(), MemoryMeter(dist.device if dist else None), folder, dist=dist)
