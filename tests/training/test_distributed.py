import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import ddp_worker
import pytest
import torch
from made_up_configs import compose
from toy_learner import trainer

from peftbench.errors import UsageError
from peftbench.models import load_backbone
from peftbench.training.distributed import Dist, choose_device, join
from peftbench.training.launch import RENDEZVOUS
from peftbench.training.precision import choose_attention, hardware_bf16, resolve

WORKER = Path(__file__).parent / "ddp_worker.py"
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def ranks_of(world, arguments):
    """Start the ranks as srun or a launcher would; wait for all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(world)}
    command = [sys.executable, str(WORKER), *arguments]
    ranks = [subprocess.Popen(command, env={**ENVIRON, **place, "RANK": str(rank)}) for rank in range(world)]
    assert [rank.wait(900) for rank in ranks] == [0] * world


def torchrun(world, arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", str(WORKER)]
    subprocess.run([*command, *arguments], env=ENVIRON, check=True, timeout=900)


def compare(tmp_path, learner, world, start):
    """Train alone, in one batch, and in a world, item by item: the same losses, scores and predictions."""
    ddp_worker.main(str(tmp_path / "alone.json"), learner, 100)
    start(world, [str(tmp_path / "together.json"), learner, "1"])
    alone, together = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "together"))
    assert (alone["world"], together["world"]) == (1, world)
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    for key in ("dev", "tokens", "unreached", "ids", "labels"):
        assert together[key] == alone[key], key
    for ours, theirs in zip(together["scores"], alone["scores"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_two_processes_train_as_one(tmp_path):
    """Short tails (22 items in fours), accumulation and a parameter that no loss reaches included."""
    compare(tmp_path, "Toy", 2, ranks_of)


@pytest.mark.slow
def test_three_processes_and_a_real_bert_under_torchrun(tmp_path):
    """The tail of a pass, two items, leaves the third rank without any."""
    compare(tmp_path, "TinyBert", 3, torchrun)


def test_a_process_alone_needs_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    dist = join(trainer())
    assert (dist.rank, dist.world, dist.main, dist.device.type) == (0, 1, True, "cpu")
    assert dist.gather({"a": 1}) == [{"a": 1}]
    assert dist.broadcast([1]) == [1]
    dist.barrier()
    dist.close()


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", 0).type == "cpu"
    with pytest.raises(UsageError, match=r"trainer\.device=cuda"):
        choose_device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto", 0) == torch.device("cuda", 0)
    assert choose_device("cpu", 3).type == "cpu"
    with pytest.raises(UsageError, match=r"trainer\.devices=1"):
        choose_device("cuda", 1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32")],
)
def test_auto_precision_asks_the_hardware(monkeypatch, flags, expected):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert resolve("auto", cpu) == expected
    assert resolve("bf16", cpu) == "bf16"
    assert resolve("fp32", cpu) == "fp32"


def test_auto_precision_agrees_with_the_kernel():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or not torch.backends.mkldnn.is_available():
        pytest.skip("no /proc/cpuinfo to compare with")
    words = set(cpuinfo.read_text().split())
    assert hardware_bf16(torch.device("cpu")) == bool(words & {"avx512_bf16", "amx_bf16"})


def test_world_of_one_is_the_default():
    assert Dist(torch.device("cpu")) == Dist(torch.device("cpu"), 0, 1, 0)


@pytest.mark.parametrize(
    ("attention", "precision", "device", "expected"),
    [
        ("auto", "bf16", "cpu", "eager"),
        ("auto", "fp32", "cpu", "sdpa"),
        ("auto", "bf16", "cuda", "sdpa"),
        ("eager", "fp32", "cpu", "eager"),
        ("sdpa", "bf16", "cpu", "sdpa"),
    ],
)
def test_auto_attention_is_eager_for_bf16_on_a_cpu(attention, precision, device, expected):
    model = load_backbone(compose(["model=tiny-bert"]).model, "features").model
    assert model.config._attn_implementation == "sdpa"
    choose_attention(torch.nn.ModuleList([model]), attention, precision, torch.device(device))
    assert model.config._attn_implementation == expected


@pytest.mark.parametrize(("model", "purpose"), [("tiny-bert", "features"), ("tiny-t5", "lm"), ("tiny-llama", "lm")])
def test_either_attention_computes_the_same(model, purpose):
    network = load_backbone(compose([f"model={model}"]).model, purpose, dropout=0.0).model
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3])}
    inputs |= {"labels": ids[:, :3].contiguous()} if model == "tiny-t5" else {}
    found = []
    for attention in ("sdpa", "eager"):
        choose_attention(network, attention, "fp32", torch.device("cpu"))
        with torch.no_grad():
            out = network(**inputs)
        states = out.logits if purpose == "lm" else out.last_hidden_state
        found.append(states if model == "tiny-t5" else states[inputs["attention_mask"].bool()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ranks_with_other_seeds_or_data_end_with_what_differs(tmp_path, monkeypatch):
    """Each rank finds data of its own under the same name, as on a node with an old copy."""
    ranks = []
    for rank in (0, 1):
        (home := tmp_path / f"node{rank}").mkdir()
        rows = [f"text {number} {'odd' * rank},{'ab'[number % 2]}" for number in range(400)]
        (home / "rows.csv").write_text("\n".join(["text,label", *rows]))
        task = ["task=file", "task.path=rows.csv", "task.text=text", "task.label=label", "shots=1"]
        monkeypatch.chdir(home)
        common = ["method=lora", "model=tiny-bert", "trainer=debug", "trainer.device=cpu", "tracking.wandb=disabled"]
        cfg = compose([*task, *common, f"seed={rank + 1}", f"out_dir={tmp_path / 'results'}"])
        (home / "config.json").write_text(json.dumps(dataclasses.asdict(cfg)))
        place = {"RANK": str(rank), "WORLD_SIZE": "2", RENDEZVOUS: str(tmp_path / "meeting")}
        command = [sys.executable, "-m", "peftbench.ddp_worker", "config.json"]
        ranks.append(subprocess.Popen(command, cwd=home, env={**ENVIRON, **place}, stderr=subprocess.PIPE, text=True))
    for process in ranks:
        said = process.communicate(timeout=900)[1]
        assert process.returncode == 2, said
        assert "The ranks do not do the same run" in said
        assert "seed (1 on rank 0, 2 on rank 1)" in said
        assert "data (" in said
    assert not list(tmp_path.glob("results/records/*"))
