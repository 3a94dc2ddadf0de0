#!/usr/bin/env python
"""How near training and evaluation come to what this machine can multiply; transformers' Trainer and setfit beside.

    OMP_NUM_THREADS=1 python scripts/bench_limit.py --out results/limit
    OMP_NUM_THREADS=1 python scripts/bench_limit.py --out /tmp/look --models tiny-bert --methods lora --rounds 1

The peak is the fastest of some matrix products (torch.mm), measured again before each work, so that a busy machine
slows both. A share is FLOPs / CPU seconds / peak in that precision, the median over rounds in which the contenders take
turns in one process:

- `ours`: the training loop, and the evaluation of full batches, with a head; all items have the full length.
- `trainer`: a sequence classifier of the same config (random weights) with peft's tuner in transformers' Trainer.
- `setfit`: the setfit library on the same encoder, pairs of texts, all weights; beside `full` of minilm.

FLOPs are counted as a record's are (`peftbench.measure.probe`), of each contender's own work. Where our training's CPU
time goes is measured operation by operation. Cells are kept in OUT/cells.json; the same command goes on with the
missing ones and prints the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from peftbench.build import build_learner
from peftbench.config import compose
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.measure.probe import count_flops
from peftbench.tasks import load_task
from peftbench.tasks.base import Row
from peftbench.training.distributed import Dist
from peftbench.training.loop import train
from peftbench.training.precision import choose_attention
from peftbench.training.predict import predict_all

Work = Callable[[], Any]
SHAPES = {"minilm": (8, 128), "e5-small-q4": (8, 128), "smollm2-135m": (4, 64)}
"""Model -> rows of a batch and tokens of a row."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
METHODS = ("head_only", "lora", "prompt_tuning")
EVALUATED = 4
"""Evaluated rows, in batches of training."""
PEAK = [(512, 512, 512), (1024, 384, 1536), (1024, 1024, 1024), (2048, 2048, 2048)]
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "addmv", "mv", "dot")


def peak(dtype: torch.dtype = torch.float32, repeats: int = 2) -> float:
    """FLOP/s by CPU time of the fastest product."""
    best = 0.0
    for m, k, n in PEAK:
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        for _ in range(repeats):
            best = max(best, 2 * m * k * n / seconds_of(partial(torch.mm, a, b)))
    return best


def seconds_of(work: Work) -> float:
    """CPU seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ours(model: str, method: str, precision: str, steps: int) -> tuple[Learner, dict[str, Work]]:
    """The learner, its training and its evaluation."""
    batch, length = SHAPES.get(model, (8, 64))
    shape = [f"trainer.batch_size={batch}", f"trainer.max_length={length}", f"trainer.steps={steps}"]
    same = [f"trainer.precision={precision}", "trainer.progress=false", "trainer.device=cpu", "method/formulation=head"]
    cfg = compose([f"model={model}", f"method={method}", "task=demo_news", "shots=8", *shape, *same])
    data = load_task(cfg.task, None)
    learner, _ = build_learner(cfg, data, PhaseClock(), data.train)
    choose_attention(learner, cfg.trainer.attention, precision, torch.device("cpu"))
    items = learner.encode([long(row) for row in data.train[: EVALUATED * batch]])
    assert {item.length for item in items} == {length}, "all are cut"
    rates, dist = dict.fromkeys(learner.param_groups(), 1e-4), Dist(torch.device("cpu"))
    fit = partial(train, learner, items, cfg=cfg.trainer, lr=rates, weight_decay=0.0, seed=1, select="last",
                  evaluate=None, dist=dist)  # fmt: skip
    ask = partial(predict_all, learner, items, cfg=cfg.trainer, dist=dist, precision=precision)
    return learner, {"train": lambda: fit(clock=PhaseClock()), "eval": ask}


def long(row: Row) -> Row:
    """The row with a text that is longer than what fits."""
    return replace(row, text=f"{row.text} " * 40)


def with_trainer(learner: Learner, method: str, steps: int, scratch: str) -> dict[str, Work]:
    """The same work as a plain script would have it done."""
    assert learner.config is not None
    cfg, config = learner.config.trainer, learner.backbone.model.config
    config.num_labels, config.pad_token_id = (
        len(learner.formulation.task.labels),
        learner.backbone.tokenizer.pad_token_id,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16))
    elif method == "prompt_tuning":
        model = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=20))
    elif method == "head_only":
        model.base_model.requires_grad_(False)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(
        10, min(20000, config.vocab_size), (EVALUATED * cfg.batch_size, cfg.max_length), generator=draw
    ).tolist()
    rows = [{"input_ids": i, "attention_mask": [1] * len(i), "labels": n % 2} for n, i in enumerate(ids)]
    settings = TrainingArguments(
        output_dir=scratch, max_steps=steps, per_device_train_batch_size=cfg.batch_size,
        per_device_eval_batch_size=64, learning_rate=1e-4, save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        bf16=cfg.precision == "bf16",
    )  # fmt: skip
    trainer = Trainer(model=model, args=settings, train_dataset=rows)  # type: ignore[arg-type]
    return {"train": trainer.train, "eval": lambda: trainer.predict(rows)}  # type: ignore[arg-type]


def with_setfit(learner: Learner, steps: int, scratch: str) -> dict[str, Work]:
    """Pairs of the same texts, by the library."""
    from sentence_transformers import SentenceTransformer, models  # type: ignore[attr-defined]
    from setfit import SetFitModel, TrainingArguments
    from setfit import Trainer as PairTrainer
    from sklearn.linear_model import LogisticRegression

    assert learner.config is not None
    cfg, backbone, folder = learner.config.trainer, learner.backbone, Path(scratch, "encoder")
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    text = models.Transformer(str(folder), max_seq_length=cfg.max_length)
    body = SentenceTransformer(modules=[text, models.Pooling(backbone.hidden_size)], device="cpu")
    rows = [long(row) for row in learner.formulation.shots[: EVALUATED * cfg.batch_size]]
    texts, labels = [row.text for row in rows], [str(row.target) for row in rows]
    args = TrainingArguments(output_dir=scratch, batch_size=cfg.batch_size // 2, max_steps=steps, report_to="none",
                             save_strategy="no", show_progress_bar=False)  # fmt: skip
    trainer = PairTrainer(model=SetFitModel(model_body=body, model_head=LogisticRegression()), args=args)
    encode = partial(body.encode, texts, batch_size=64, show_progress_bar=False)
    return {"train": lambda: trainer.train_embeddings(texts, labels, args=args), "eval": encode}


class Timed(TorchDispatchMode):
    """Adds up the CPU seconds of every operation, of this thread's clock: other processes are not in it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        began = time.thread_time()
        out = func(*args, **(kwargs or {}))
        self.seconds[func.overloadpacket.__name__] += time.thread_time() - began  # type: ignore[assignment]
        return out


def where_it_goes(work: Work, repeats: int = 2) -> dict[str, float]:
    """Shares of a work's CPU seconds: matrix products, attention, other operations, and what is none (Python, the
    loop). The quickest of some repeats counts."""
    whole, spent = float("inf"), Counter[str]()
    for _ in range(repeats):
        whole = min(whole, seconds_of(work))
        with Timed() as timed:
            work()
        if not spent or timed.seconds.total() < spent.total():
            spent = timed.seconds
    found = {"products": 0.0, "attention": 0.0, "other operations": 0.0}
    for name, own in spent.items():
        found[kind_of(name)] += own / whole
    found["no operation"] = 1 - sum(found.values())
    other = [(name, own) for name, own in spent.most_common() if kind_of(name) == "other operations"]
    return found | {f"of these {name}": own / whole for name, own in other[:4]}


def kind_of(operation: str) -> str:
    if operation in PRODUCTS:
        return "products"
    return "attention" if "attention" in operation else "other operations"


def measured(model: str, method: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """One cell: shares of all contenders, by turns."""
    with tempfile.TemporaryDirectory() as scratch:
        learner, own = ours(model, method, precision, args.steps)
        works = {("ours", phase): work for phase, work in own.items()}
        works |= {("trainer", p): w for p, w in with_trainer(learner, method, args.steps, scratch).items()}
        if method == "full" and precision == "fp32":
            works |= {("setfit", p): w for p, w in with_setfit(learner, args.steps, scratch).items()}
        flops = {key: count_flops(work) for key, work in works.items()}  # warms up, too
        shares: dict[tuple[str, str], list[float]] = {key: [] for key in works}
        peaks = []
        for turn in range(args.rounds):
            for key in list(works) if turn % 2 else list(works)[::-1]:
                peaks.append(peak(DTYPES[precision]))
                shares[key].append(flops[key] / seconds_of(works[key]) / peaks[-1])
        return {
            "step GFLOP": flops["ours", "train"] / args.steps / 1e9,
            "peak GFLOP/s": [min(peaks) / 1e9, statistics.median(peaks) / 1e9, max(peaks) / 1e9],
            "shares": {" ".join(key): statistics.median(found) for key, found in shares.items()},
            "all": {" ".join(key): found for key, found in shares.items()},
            "time": where_it_goes(works["ours", "train"]),
        }


def table(cells: dict[str, dict[str, Any]]) -> str:
    """A line a cell."""
    times = ("products", "attention", "other operations", "no operation")
    ways = ("ours train", "trainer train", "setfit train", "ours eval", "trainer eval", "setfit eval")
    head = ["model", "method", "precision", "GFLOP a step", *ways, *times, "most of the others"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- |" + " ---: |" * (len(head) - 4) + " --- |"]
    for name, cell in cells.items():
        most = [f"{key.removeprefix('of these ')} {v:.2f}" for key, v in cell["time"].items() if key not in times]
        shares = [f"{cell['shares'][way]:.2f}" if way in cell["shares"] else "" for way in ways]
        step, spent = cell["step GFLOP"], [f"{cell['time'][key]:.2f}" for key in times]
        lines.append(f"| {' | '.join([*name.split(), f'{step:.1f}', *shares, *spent, ', '.join(most)])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/limit"))
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "cells.json"
    cells: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    speed = {name: round(peak(dtype, 3) / 1e9, 1) for name, dtype in DTYPES.items()}
    print(
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}; the fastest product, GFLOP/s:",
        speed,
        flush=True,
    )
    methods = [(m, method) for m in args.models.split(",") for method in args.methods.split(",")]
    methods += [("minilm", "full")] if "minilm" in args.models.split(",") else []
    for model, method in methods:
        for precision in args.precisions.split(","):
            name = f"{model} {method} {precision}"
            if name not in cells:
                cells[name] = measured(model, method, precision, args)
                file.write_text(json.dumps(cells, indent=1) + "\n")
                print(name, cells[name]["shares"], flush=True)
    print(table(cells))


if __name__ == "__main__":
    main()
