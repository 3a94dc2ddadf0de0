"""The `setfit_library` stage: the setfit library's own trainer on the run's backbone and draw."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.errors import UsageError
from peftbench.formulations.predictions import Prediction
from peftbench.stages.base import Context, Predictor, StageReport
from peftbench.stages.learning import DEFAULT_RATE, fresh
from peftbench.tasks.base import Row

if TYPE_CHECKING:
    from peftbench.learner import Learner

SEEDS = 2**32
NAME = "setfit_library"


def check(context: Context) -> None:
    """Whether the library is here and can do what the options say.

    Raises:
        UsageError: it is not installed, or has no such pairs or loss.
    """
    cfg, name = context.cfg.method.options("contrastive"), context.cfg.method.name
    if importlib.util.find_spec("setfit") is None:
        raise UsageError(f'method={name}: the setfit library is not installed. pip install "peftbench[baselines]"')
    if cfg.pairs == "drawn" or cfg.loss != "cosine":
        raise UsageError(
            f"method={name}: the library has loss=cosine and pairs=iterations, oversampling, undersampling or unique."
        )
    if context.data.problem != "classification" or context.has_pairs() or not context.draw.train:
        raise UsageError(f"method={name}: the library wants labelled single texts. Use shots of 1 and more.")


class LibraryPredictor(Predictor):
    """A `SetFitModel`."""

    def __init__(self, model: Any, prefix: str, batch: int) -> None:
        self.model, self.prefix, self.batch = model, prefix, batch

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        texts = [self.prefix + row.text for row in rows]
        names = [str(name) for name in self.model.model_head.classes_]
        found = self.model.predict_proba(texts, batch_size=self.batch, as_numpy=True, show_progress_bar=False)
        return [
            Prediction(row.id, names[int(np.argmax(p))], dict(zip(names, p.tolist(), strict=True)))
            for row, p in zip(rows, found, strict=True)
        ]

    def counts(self) -> dict[str, int]:
        body, head = sum(p.numel() for p in self.model.model_body.parameters()), self.model.model_head
        own = int(head.coef_.size + head.intercept_.size)
        return {"module": body, "head": own, "total": body + own}

    def save(self, folder: Path) -> None:
        """The encoder, as sentence-transformers writes it, and the head's numbers."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        self.model.model_body.save(str(folder / "body"))
        head = self.model.model_head
        save_file({"weight": head.coef_, "bias": head.intercept_}, folder / "head.safetensors")


def setfit_library(context: Context, incoming: Predictor | None) -> Predictor:
    """Train with the library and hand on what it made."""
    with context.clock("import"):
        from setfit import SetFitModel, Trainer
        from sklearn.linear_model import LogisticRegression

    learner = fresh(context).learner
    report, started = StageReport(NAME), context.clock.wall["train"]
    with tempfile.TemporaryDirectory() as scratch:
        with context.clock("model"):
            body = sentence_transformer(learner, Path(scratch, "backbone"), context)
            model = SetFitModel(model_body=body, model_head=LogisticRegression(), labels=list(context.data.labels))
        with context.clock("train"), context.meter.phase("train"):
            rows, args = dataset(context, learner), arguments(context, Path(scratch))
            trainer = Trainer(model=model, args=args, train_dataset=rows)
            trainer.train()
    report.steps, report.seconds = int(trainer.st_trainer.state.global_step), context.clock.wall["train"] - started
    context.reports.append(report)
    return LibraryPredictor(model, learner.backbone.prefix, context.cfg.method.options("contrastive").batch_size)


def sentence_transformer(learner: Learner, folder: Path, context: Context) -> Any:
    """The run's backbone with its pooling and unit length, as sentence-transformers has encoders."""
    from sentence_transformers import SentenceTransformer, models  # type: ignore[attr-defined]

    backbone = learner.backbone
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    text = models.Transformer(str(folder), max_seq_length=context.cfg.trainer.max_length)
    how = {"last": "lasttoken"}.get(backbone.pooling, backbone.pooling)
    unit = [models.Normalize()] if context.cfg.method.formulation.normalize else []
    modules = [text, models.Pooling(backbone.hidden_size, pooling_mode=how), *unit]
    return SentenceTransformer(modules=modules, device=str(context.processes().device))


def dataset(context: Context, learner: Learner) -> Any:
    """The draw's rows as the library wants them."""
    from datasets import Dataset

    rows, prefix = context.draw.train, learner.backbone.prefix
    return Dataset.from_dict({"text": [prefix + row.text for row in rows], "label": [str(row.target) for row in rows]})


def arguments(context: Context, folder: Path) -> Any:
    """The library's training arguments; what the method does not say is the library's default."""
    from setfit import TrainingArguments

    cfg, method = context.cfg.method.options("contrastive"), context.cfg.method
    iterations = {"num_iterations": cfg.iterations} if cfg.pairs == "iterations" else {"sampling_strategy": cfg.pairs}
    rate = method.lr[DEFAULT_RATE]
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        batch_size=cfg.batch_size,
        num_epochs=(cfg.epochs or 1, 1),  # of the encoder, which may be a part of a pass; of a head that is not used
        max_steps=-1 if cfg.steps is None else cfg.steps,
        body_learning_rate=rate,
        warmup_proportion=cfg.warmup,
        l2_weight=method.weight_decay,
        seed=context.cfg.seed % SEEDS,
        report_to="none",
        save_strategy="no",
        show_progress_bar=False,
        **iterations,
    )
