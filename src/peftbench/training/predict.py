"""Predictions for many items, each made exactly once over all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from peftbench.formulations.base import Batch, Encoded, Prediction
from peftbench.training import batching
from peftbench.training.precision import autocast, resolve
from peftbench.training.progress import evaluation_reporter

if TYPE_CHECKING:
    from peftbench.config.schema import TrainerConfig
    from peftbench.learner import Learner
    from peftbench.training.distributed import Dist


def predict_all(
    learner: Learner,
    items: Sequence[Encoded],
    *,
    cfg: TrainerConfig,
    dist: Dist,
    precision: str = "auto",
    predict: Callable[[Batch], list[Prediction]] | None = None,
) -> list[Prediction]:
    """The prediction of every item, in item order, on every rank.

    Batches are bucketed by length under `trainer.eval_batch_tokens` and dealt out to the ranks; since a batch is the
    same whoever computes it, so are the predictions. Runs in eval mode and puts the learner's mode back. Raises
    RuntimeError if an item was answered twice or not at all.

    Args:
        predict: what answers a batch in the learner's place.
    """
    batches = batching.evaluation_batches([item.length for item in items], cfg.eval_batch_tokens)
    precision = resolve(precision, dist.device)
    was_training = learner.training
    learner.eval()
    try:
        mine: list[Prediction] = []
        own = batches[dist.rank :: dist.world]
        with evaluation_reporter(cfg.progress and dist.main, len(own)) as shown:
            for done, positions in enumerate(own, 1):
                batch = to_device(learner.collate([items[i] for i in positions]), dist.device)
                # Not inference_mode: a tensor that a module caches under it could never be trained through again.
                with torch.no_grad(), autocast(precision, dist.device):
                    mine += (predict or learner.predict)(batch)
                shown.batch(done)
    finally:
        learner.train(was_training)
    if dist.world > 1:
        packed = dist.gather([[p.id, p.label, p.scores, p.answer, p.vector] for p in mine])
        mine = [Prediction(*fields) for rank in packed for fields in rank]
    return in_order(items, mine)


def in_order(items: Sequence[Encoded], predictions: Sequence[Prediction]) -> list[Prediction]:
    """Sort by the items' order. Raises RuntimeError unless the ids are the same, each exactly once."""
    by_id = {prediction.id: prediction for prediction in predictions}
    ids = {item.id for item in items}
    if not len(items) == len(predictions) == len(by_id) or by_id.keys() != ids:
        wrong = sorted(by_id.keys() ^ ids)[:3]
        raise RuntimeError(
            f"{len(items)} items ({len(ids)} ids) got {len(predictions)} predictions ({len(by_id)} ids); {wrong} differ"
        )
    return [by_id[item.id] for item in items]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`, those of batches within it too; what is not a tensor (the ids) stays."""
    if device.type == "cpu":
        return batch

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value

    return {key: moved(value) for key, value in batch.items()}
