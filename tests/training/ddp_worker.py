"""Trains a toy learner in whatever world it was started in; rank 0 writes losses and predictions as JSON.

Usage: ddp_worker.py OUT.json LEARNER MICRO_BATCH
"""

import json
import sys
from pathlib import Path

import torch
import toy_learner

from peftbench.measure.clock import PhaseClock
from peftbench.training.distributed import join
from peftbench.training.loop import train
from peftbench.training.predict import predict_all


def main(out: str, learner_name: str, micro_batch: int) -> None:
    cfg = toy_learner.trainer(steps=14, micro_batch=micro_batch, eval_every=5)
    dist = join(cfg)
    learner = getattr(toy_learner, learner_name)()
    items = toy_learner.items()
    test = toy_learner.items(17, seed=5)

    def accuracy() -> float:
        found = predict_all(learner, test, cfg=cfg, dist=dist)
        return sum(p.label == str(i.data["label"]) for p, i in zip(found, test, strict=True)) / len(test)

    result = train(
        learner,
        items,
        cfg=cfg,
        lr=toy_learner.LR,
        weight_decay=0.1,
        seed=3,
        select="best",
        evaluate=accuracy,
        clock=PhaseClock(),
        dist=dist,
    )
    predictions = predict_all(learner, test, cfg=cfg, dist=dist)
    if dist.main:
        facts = {
            "world": dist.world,
            "losses": result.curves["loss"],
            "dev": result.curves["dev"],
            "tokens": result.tokens,
            "unreached": float(getattr(learner, "unreached", torch.ones(1)).detach().mean()),
            "ids": [p.id for p in predictions],
            "labels": [p.label for p in predictions],
            "scores": [list(p.scores.values()) for p in predictions],
        }
        with open(out, "w") as file:
            json.dump(facts, file)
    assert dist.gather([p.label for p in predictions]) == [[p.label for p in predictions]] * dist.world
    dist.close()
    threads = {task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")}
    assert not any("gloo" in name for name in threads), f"left behind: {threads}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
