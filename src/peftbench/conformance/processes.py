"""`two processes equal one`: the same steps here, and in two processes started as a run with `trainer.devices=2` is.

Also the program of those processes: `python -m peftbench.conformance.processes JOB.json`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from peftbench.conformance.bench import CASES, Bench, logits, trainer
from peftbench.conformance.checks import Verdict, failed, is_random, not_claimed, same_training
from peftbench.conformance.subject import Subject, find_subject
from peftbench.ddp_worker import hold_leash
from peftbench.training.distributed import Dist, join
from peftbench.training.launch import launch

STEPS = 5
MICRO_BATCH = 3


def two_processes(bench: Bench, subject: Subject) -> Verdict:
    """Train alone and in two processes; compare losses and logits."""
    learner = bench.learner()
    if is_random(learner, learner.encode(bench.task.train)):
        return not_claimed("the forward pass draws random numbers in training")
    alone = short_training(bench, Dist(torch.device("cpu")))
    with tempfile.TemporaryDirectory(prefix="peftbench-check-") as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "out.json"
        facts = {"subject": subject.name, "overrides": subject.overrides, "case": bench.case.name, "out": str(out)}
        job.write_text(json.dumps(facts), encoding="utf-8")
        code = launch(job, 2, worker=__name__).code
        if code:
            return failed(f"the processes ended with exit code {code}; what they said stands above")
        together = json.loads(out.read_text(encoding="utf-8"))
    found, wanted = ([torch.tensor(row) for row in facts["logits"]] for facts in (together, alone))
    return same_training(together["losses"], alone["losses"], found, wanted, "two processes")


def short_training(bench: Bench, dist: Dist) -> dict[str, Any]:
    """Losses of the steps, and each item's logits after them."""
    learner = bench.learner()
    result = bench.train(learner, dist=dist, steps=STEPS, micro_batch=MICRO_BATCH if dist.world > 1 else None)
    items = learner.eval().encode(bench.task.train)
    return {"losses": result.curves["loss"], "logits": [row.tolist() for row in logits(learner, items)]}


def main(path: str) -> int:
    """One of the two processes."""
    hold_leash()
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    subject = find_subject(job["subject"], job["overrides"])
    case = next(c for c in CASES if c.name == job["case"])
    dist = join(trainer())
    facts = short_training(Bench(subject.tuner, subject.lr, case), dist)
    if dist.main:
        Path(job["out"]).write_text(json.dumps(facts), encoding="utf-8")
    dist.barrier()
    dist.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
