"""Tokenised rows and the cost of a step that runs of one process have from one another: as if each had made its own."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import peftbench
from peftbench.config.catalogue import names
from peftbench.formulations.head.formulation import HeadFormulation
from peftbench.formulations.in_words import TextFormulation
from peftbench.models import backbone_cache
from peftbench.models.backbone_cache import Kept, keep_loaded
from peftbench.stages import kept, learning
from peftbench.stages.learning import probe_step

FAST = ["task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2", "trainer.steps=2", "rerun=true"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(monkeypatch):
    """How often a step was probed and rows were tokenised."""
    counts = SimpleNamespace(probes=0, rows=0)

    def counted(*args, **kwargs):
        counts.probes += 1
        return probe_step(*args, **kwargs)

    monkeypatch.setattr(learning, "probe_step", counted)
    for of in (HeadFormulation, TextFormulation):

        def encode(self, rows, plain=of.encode):
            counts.rows += len(rows)
            return plain(self, rows)

        monkeypatch.setattr(of, "encode", encode)
    return counts


def facts(out_dir: Path) -> dict[str, tuple]:
    """Of each run what it came to and what its step costs."""
    found = {path.stem: json.loads(path.read_text()) for path in (out_dir / "records").glob("*.json")}
    return {
        name: (r["status"], r["scores"], r["curves"], r["predictions"].get("sha256"), r["compute"]["step_flops"],
               r["memory"]["saved_bytes"], r["diagnosis"].get("truncation"))
        for name, r in found.items()
    }  # fmt: skip


def runs(out_dir: str, *overrides: str, **axes) -> None:
    for run in peftbench.sweep(axes, *FAST, *overrides, f"out_dir={out_dir}"):
        assert run.record.status == "done", run.record.reason


@pytest.mark.parametrize("model", ["tiny-bert", pytest.param("tiny-llama", marks=pytest.mark.slow)])
def test_runs_of_a_sweep_are_what_they_are_alone(here, made, monkeypatch, model):
    given = {"model": model, "method": "lora", "seed": [1, 2]}
    runs("swept", **given)
    swept = vars(made).copy()
    monkeypatch.setattr(kept, "backbone_cache", lambda: None)
    runs("alone", **given)
    assert facts(here / "swept") == facts(here / "alone")
    assert all(flops > 1e5 and saved > 1e3 for *_, flops, saved, _ in facts(here / "swept").values())
    assert swept["probes"] == 1
    assert made.probes - swept["probes"] == 2
    assert swept["rows"] * 2 == made.rows - swept["rows"]


@pytest.mark.slow
def test_another_shape_is_another_step(here, made):
    runs("ranks", "model=tiny-bert", "method=lora", **{"method.tuner.rank": [2, 4], "trainer.max_length": [8, 12]})
    assert made.probes == 4
    ranks = [flops for *_, flops, _, _ in facts(here / "ranks").values()]
    assert len(set(ranks)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("model", "probes"), [("tiny-bert", 1), ("tiny-llama", 2)])
def test_words_of_another_draw_cost_the_same_with_a_head(here, made, model, probes):
    runs("draws", f"model={model}", "method=lora", "trainer.max_length=24", data_seed=[1, 2])
    assert made.probes == probes, "where an answer stands is not said by shapes"


def test_nothing_is_kept_of_a_tuner_from_outside_or_beyond_the_block():
    with keep_loaded() as cache:
        net = SimpleNamespace(tuner=SimpleNamespace(), formulation=nn.Identity(), config=object())
        assert kept.probed(net, {}, "fp32", lambda: "measured") == "measured"
        assert not cache.probes._values
    assert backbone_cache.backbone_cache() is None


def test_the_oldest_goes_when_there_is_no_room():
    kept_, made = Kept(room=5), []

    def once(key, size):
        return kept_.once(key, lambda: made.append(key) or size, size=lambda value: value)

    assert [once(*pair) for pair in (("a", 2), ("b", 3), ("a", 2), ("c", 2), ("a", 2))] == [2, 3, 2, 2, 2]
    assert made == ["a", "b", "c"], "`a` was used last, so `b` went"
    once("b", 3)
    assert made == ["a", "b", "c", "b"]
    assert once("huge", 9) == 9
    assert not kept_._values


def test_words_are_no_part_of_a_shape_unless_they_count():
    batch = {"ids": ["a"], "input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 3)}
    other = {**batch, "ids": ["b"], "input_ids": 2 * batch["input_ids"]}
    assert tuple(kept._shape(batch, False)) == tuple(kept._shape(other, False))
    assert tuple(kept._shape(batch, True)) != tuple(kept._shape(other, True))
    other["attention_mask"] = torch.tensor([[0.0, 1, 1]])
    assert tuple(kept._shape(batch, False)) != tuple(kept._shape(other, False))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-bert", "tiny-llama"])
def test_of_every_tuner(here, monkeypatch, model):
    methods = [m for m in names("method") if m not in ("file", "peft", "possibility_exploration")]
    methods = [m for m in methods if peftbench.config.compose([f"method={m}"]).method.stages == ["supervised"]]
    for method in methods:
        with monkeypatch.context() as patched:
            try:
                runs("swept", f"model={model}", f"method={method}", seed=[1, 2])
            except peftbench.errors.UsageError:
                continue
            patched.setattr(kept, "backbone_cache", lambda: None)
            runs("alone", f"model={model}", f"method={method}", seed=[2])
    alone = facts(here / "alone")
    assert len(alone) > 20
    assert {key: value for key, value in facts(here / "swept").items() if key in alone} == alone
