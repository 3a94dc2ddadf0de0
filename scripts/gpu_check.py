#!/usr/bin/env python
"""What a CUDA machine does with this project: one script, a bounded time, all figures in a JSON file.

    PYTHONPATH=src python scripts/gpu_check.py --out gpu_check.json            # at most 9 minutes
    PYTHONPATH=src python scripts/gpu_check.py --out cpu_check.json --device cpu --methods lora,dept --minutes 3

Needs no network and no weights: the networks are random. Checks, each for itself and in this order:

- machine   what torch sees
- nccl      a process group of one process sums, gathers and lets go (gloo on a CPU)
- nf4       LoRA on a backbone in 4 bits, where bitsandbytes is installed
- memory    the record's train peak against torch's own counter, and its train seconds against CUDA events
- resume    a training that is told to stop and goes on, against one that was not stopped
- tuners    a step of every method's tuner in fp32 and bf16: finite, and its fp32 loss equal to the CPU's within 1e-3

A check that fails is reported and the next one begins; what there was no time for is named. The exit code is 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import peftbench
from peftbench.config import compose
from peftbench.config.catalogue import names
from peftbench.errors import Interrupted, UsageError
from peftbench.measure.environment import environment
from peftbench.records.record import Record
from peftbench.training import loop
from peftbench.training.distributed import Dist

LOSS_TOLERANCE = 1e-3
"""Relative, between the first fp32 losses of two devices: cuBLAS and MKL add in other orders, and TF32 is off."""
MINILM = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
WIDE = [f"model.arch.{key}={value}" for key, value in MINILM.items()]
"""MiniLM's shape, so that memory and clocks have something to count."""
FAST = [
    "task=demo_news", "shots=4", "trainer=debug", "trainer.max_length=48", "trainer.dropout=0",
    "trainer.progress=false", "trainer.probe=false", "protocol.dev=none", "protocol.test_rows=16",
    "tracking.wandb=disabled",
]  # fmt: skip


MODELS = ("tiny-bert", "tiny-t5", "tiny-llama")
INCOMPLETE = ("peft", "file")
"""Methods that want a key or a file of the user."""


class Check:
    """The device, the folder of the runs, and what was found."""

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder

    def run(self, *overrides: str, device: str | None = None) -> Record:
        """The record of a small run on the device, or on another one."""
        device = device or self.device
        return peftbench.run(*FAST, f"trainer.device={device}", f"out_dir={self.folder / device}", *overrides).record


def machine(check: Check) -> dict[str, Any]:
    """What torch sees."""
    facts = environment()
    if check.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {"name": properties.name, "memory_mib": properties.total_memory >> 20, "cuda": torch.version.cuda,
                  "capability": torch.cuda.get_device_capability(), "bf16": torch.cuda.is_bf16_supported()}  # fmt: skip
    return facts


def nccl(check: Check) -> dict[str, Any]:
    """A group of one process: sum, gather, leave."""
    backend = "nccl" if check.device == "cuda" else "gloo"
    device = torch.device(check.device, 0) if check.device == "cuda" else torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        store = torch.distributed.FileStore(f"{folder}/store", 1)
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            tensor = torch.arange(4.0, device=device)
            torch.distributed.all_reduce(tensor)
            gathered = [torch.empty_like(tensor)]
            torch.distributed.all_gather(gathered, tensor)
            expect(tensor.tolist() == gathered[0].tolist() == [0.0, 1.0, 2.0, 3.0], "a sum of one is another number")
        finally:
            Dist(device).close()
    return {"backend": backend}


def nf4(check: Check) -> dict[str, Any]:
    """LoRA on 4-bit weights, two steps."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return {"skipped": "bitsandbytes is not installed"}
    record = check.run("model=tiny-llama", "model.load=nf4", "method=lora", "trainer.steps=2", "trainer.precision=bf16")
    return {"loss": finite(record)}


def memory(check: Check) -> dict[str, Any]:
    """The record's peak and seconds of training, beside torch's own counters over the same call."""
    steps = [
        "model=tiny-bert",
        *WIDE,
        "method=full",
        "trainer.steps=20",
        "trainer.batch_size=16",
        "trainer.precision=fp32",
    ]
    check.run(*steps, "seed=1")  # loads kernels and fills the allocator's cache
    if check.device != "cuda":
        record = check.run(*steps, "seed=2")
        return {"record": record.memory, "seconds": record.seconds, "torch": "no counters on a CPU"}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    record = check.run(*steps, "seed=2")
    end.record()
    torch.cuda.synchronize()
    peak, seconds = (torch.cuda.max_memory_allocated() - before) / 2**20, begin.elapsed_time(end) / 1000
    facts = {"record": record.memory, "torch_peak_mib": peak, "seconds": record.seconds, "event_seconds": seconds}
    expect(record.memory["train_peak_mib"] <= peak + 1, f"a peak above torch's own: {facts}")
    expect(record.seconds["train"] <= seconds, f"training took longer than all of the run: {facts}")
    return facts


def resume(check: Check) -> dict[str, Any]:
    """A training that gets SIGTERM in its fourth step and goes on, against one that does not."""
    command = [
        "model=tiny-bert",
        "method=lora",
        "trainer.steps=8",
        "trainer.precision=fp32",
        "trainer.checkpoint_every=2",
    ]
    whole = check.run(*command, f"out_dir={check.folder / 'whole'}")
    step = loop._Engine.step

    def told(engine: Any, at: int) -> Any:
        if at == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(engine, at)

    loop._Engine.step = told
    try:
        check.run(*command, f"out_dir={check.folder / 'parts'}")
        raise AssertionError("SIGTERM did not end the run")
    except Interrupted:
        pass
    finally:
        loop._Engine.step = step
    parts = check.run(*command, f"out_dir={check.folder / 'parts'}")
    expect(parts.compute["attempts"] == 2, "the second attempt did not go on from the first")
    apart = max(abs(a - b) for a, b in zip(whole.curves["loss"], parts.curves["loss"], strict=True))
    expect(apart <= (0 if check.device == "cpu" else 1e-5), f"losses differ by {apart}")
    return {"largest_difference": apart}


def tuner(check: Check, method: str, model: str) -> dict[str, Any]:
    """One step in fp32 and bf16, and in fp32 on a CPU."""
    command = [f"model={model}", f"method={method}", "trainer.steps=1"]
    found = {p: finite(check.run(*command, f"trainer.precision={p}")) for p in ("fp32", "bf16")}
    if check.device != "cpu":
        found["cpu"] = finite(check.run(*command, "trainer.precision=fp32", device="cpu"))
        apart = abs(found["fp32"] - found["cpu"]) / max(abs(found["cpu"]), 1e-6)
        expect(apart <= LOSS_TOLERANCE, f"losses differ by {apart:.1e}: {found}")
    return found


def finite(record: Record) -> float:
    """The first loss, which must be a number."""
    loss = float(record.curves["loss"][0])
    expect(record.status == "done" and math.isfinite(loss), f"{record.status}: {record.reason}, loss {loss}")
    return loss


def expect(holds: bool, otherwise: str) -> None:
    """Raises AssertionError, also under `python -O`."""
    if not holds:
        raise AssertionError(otherwise)


def checks(methods: list[str]) -> Iterator[tuple[str, Callable[[Check], dict[str, Any]]]]:
    """Name and check, the quick ones first."""
    yield from (("machine", machine), ("nccl", nccl), ("nf4", nf4), ("memory", memory), ("resume", resume))
    for method in methods:
        for model in MODELS:
            yield f"tuner {method} {model}", lambda check, pair=(method, model): tuner(check, *pair)


def trained_in_one_stage() -> list[str]:
    """Methods whose only stage is supervised."""
    methods = {name: compose([f"method={name}"]).method for name in names("method") if name not in INCOMPLETE}
    return [name for name, cfg in methods.items() if cfg.needs_model and cfg.stages == ["supervised"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no check after that")
    parser.add_argument("--methods", help="comma-separated; default: every one that trains")
    args = parser.parse_args()
    methods = args.methods.split(",") if args.methods else trained_in_one_stage()
    end, found, late = time.monotonic() + 60 * args.minutes, dict[str, Any](), list[str]()
    folder = Path(tempfile.mkdtemp(prefix="gpu_check-"))
    for name, one in checks(methods):
        if time.monotonic() > end:
            late.append(name)
            continue
        begun = time.monotonic()
        try:
            found[name] = {"ok": True, **one(Check(args.device, folder))}
        except UsageError as error:
            found[name] = {"ok": True, "refused": str(error)}
        except Exception as error:
            found[name] = {
                "ok": False,
                "error": f"{type(error).__name__}: {error}",
                "where": traceback.format_exc()[-2000:],
            }
        found[name]["wall_s"] = round(time.monotonic() - begun, 2)
        print(
            "ok  " if found[name]["ok"] else "FAIL",
            name,
            found[name].get("error", found[name].get("refused", "")),
            flush=True,
        )
        args.out.write_text(json.dumps({"device": args.device, "checks": found, "no_time_for": late}, indent=1))
    args.out.write_text(json.dumps({"device": args.device, "checks": found, "no_time_for": late}, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    failed = [name for name, facts in found.items() if not facts["ok"]]
    print(f"{len(found) - len(failed)} of {len(found)} checks passed, {len(late)} had no time; figures: {args.out}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
