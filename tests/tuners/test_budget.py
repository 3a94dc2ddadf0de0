"""`method.budget`: lengths and ranks from a number of trainable parameters."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_configs import compose
from tiny_models import WORDS, tiny_backbone

from peftbench.cli import main
from peftbench.config import registry
from peftbench.errors import UsageError
from peftbench.models import load_backbone
from peftbench.tasks.base import Row
from peftbench.tuners import Tuner, TunerContext, build_tuner, get_tuner
from peftbench.tuners.bayesprompt import BayesPromptOptions
from peftbench.tuners.budget import fit_budget, nearest
from peftbench.tuners.dept import DeptOptions
from peftbench.tuners.ept import EptOptions
from peftbench.tuners.full import FullOptions
from peftbench.tuners.iapt import IaptOptions
from peftbench.tuners.lora import LoraOptions
from peftbench.tuners.matrices import matched
from peftbench.tuners.p_tuning import PTuningOptions
from peftbench.tuners.prefix_tuning import PrefixTuningOptions
from peftbench.tuners.prompt_tuning import PromptTuningOptions

TEXTS = [Row(f"train:{i}", f"sport news {word}", str(i % 2)) for i, word in enumerate(WORDS[:8])]
CONTEXT = TunerContext(max_length=24, label_words=(), seed=0, pool=TEXTS, shots=TEXTS)
BIG = TunerContext(max_length=256, label_words=(), seed=0)


def with_defaults(name: str) -> Tuner:
    return build_tuner(get_tuner(name).options(name=name))


CONFIGS = {
    "prompt_tuning": PromptTuningOptions(name="prompt_tuning"),
    "bayesprompt": BayesPromptOptions(name="bayesprompt"),
    "dept": DeptOptions(name="dept", num_virtual_tokens=5, init="vocab"),
    "adept": DeptOptions(name="dept", num_virtual_tokens=5, init="vocab", offset="token"),
    "ept": EptOptions(name="ept", num_virtual_tokens=5, init="vocab"),
    "lora": LoraOptions(name="lora"),
    "p_tuning": PTuningOptions(name="p_tuning", num_virtual_tokens=5),
    "p_tuning_lstm": PTuningOptions(name="p_tuning", num_virtual_tokens=5, encoder="LSTM"),
    "prefix_tuning": PrefixTuningOptions(name="prefix_tuning", init="random"),
    "iapt": IaptOptions(name="iapt"),
}
NAMES = sorted(registry.built_in("tuner") - {"file", "peft"})  # what they train has no name yet
OTHERS = [name for name in NAMES if name not in CONFIGS and with_defaults(name).budget_knob]
CONFIGS |= {name: compose([f"method={name}"]).method.tuner for name in OTHERS}


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["run", "model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2", *args])
    return caught.value.code


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("budget", [6400, 20_000])
def test_what_is_built_has_the_size_that_was_promised(name: str, budget: int) -> None:
    tuner, backbone, context = build_tuner(CONFIGS[name]), tiny_backbone("llama" if name == "iapt" else "bert"), CONTEXT
    if name in ("lora", "dept", "ept"):  # ranks of that size take a wider network and longer texts
        backbone = load_backbone(compose(["model=tiny-bert"]).model, "features")
        context = replace(CONTEXT, max_length=256)
    backbone.max_positions = None
    before = dict(vars(tuner.cfg))
    fit_budget(tuner, budget, backbone, context)
    reached = sum(p.numel() for p in tuner.build(backbone, context).parameters() if p.requires_grad)
    assert abs(reached - budget) <= 0.05 * budget
    assert f"{reached} parameters" in tuner.notes[0]
    assert {k for k in before if before[k] != getattr(tuner.cfg, k)} <= {tuner.budget_knob}


def test_the_papers_budget_gives_the_papers_sizes() -> None:
    backbone = tiny_backbone("bert")
    backbone.hidden_size = backbone.embedding_size = 768
    for cfg, value in (
        (CONFIGS["prompt_tuning"], 100),
        (DeptOptions(name="dept", num_virtual_tokens=40, rank=1), 45),
        (DeptOptions(name="dept", num_virtual_tokens=60, rank=1), 30),
        (DeptOptions(name="dept", num_virtual_tokens=60, rank=1, offset="token"), 19),
    ):
        tuner = build_tuner(cfg)
        fit_budget(tuner, 76_800, backbone, BIG)
        assert getattr(tuner.cfg, tuner.budget_knob) == value


def test_what_cannot_be_met_is_refused_with_the_nearest() -> None:
    tuner = build_tuner(CONFIGS["prompt_tuning"])
    with pytest.raises(UsageError, match=r"method\.budget=24: .*16 parameters \(-33\.3%\).*num_virtual_tokens=1\b"):
        fit_budget(tuner, 24, tiny_backbone("bert"), CONTEXT)
    assert tuner.cfg == CONFIGS["prompt_tuning"]
    assert tuner.notes == []
    with pytest.raises(UsageError, match=r"method\.budget=100: .*full cannot be derived"):
        fit_budget(build_tuner(FullOptions(name="full")), 100, tiny_backbone("bert"), CONTEXT)


def test_a_rank_that_no_update_can_have_is_refused_with_the_greatest_budget() -> None:
    tuner, backbone = build_tuner(CONFIGS["lora"]), tiny_backbone("bert")
    greatest = 16 * 32 * len(matched(backbone, tuner.target_modules(backbone)))  # rank 16, of matrices 16 x 16
    fit_budget(tuner, greatest, backbone, CONTEXT)
    assert tuner.cfg.rank == 16
    words = rf"method\.budget=9000: it takes method\.tuner\.rank=\d+, .*\(16 x 16\) .* most 16\. Use .*={greatest} or"
    with pytest.raises(UsageError, match=words):
        fit_budget(tuner, 9000, backbone, CONTEXT)
    assert tuner.cfg.rank == 16


def test_every_knob_is_a_key_and_has_a_formula() -> None:
    for name in NAMES:
        tuner = with_defaults(name)
        if tuner.budget_knob is not None:
            assert tuner.budget_knob in tuner.cfg.__dataclass_fields__, name
            assert type(tuner).expected_parameters is not Tuner.expected_parameters, name


@given(slope=st.integers(1, 50), offset=st.integers(0, 100), budget=st.integers(1, 10_000), square=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_nearest_value_is_found(slope: int, offset: int, budget: int, square: bool) -> None:
    def count(value: int) -> int:
        return offset + slope * (value * value if square else value)

    found = nearest(count, budget, 1)
    best = min(abs(count(v) - budget) for v in range(1, 10_001 if not square else 200))
    assert abs(count(found) - budget) == best


def test_a_count_that_does_not_grow_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not grow"):
        nearest(lambda value: 3, 10, 1)


def test_a_run_says_the_number_reached(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("method=prompt_tuning", "method.budget=640") == 0
    record = json.loads(next((tmp_path / "results" / "records").glob("*.json")).read_text())
    assert record["parameters"]["module"] == 640
    assert any("method.budget=640: num_virtual_tokens=10" in note for note in record["notes"])
    assert call("method=prompt_tuning", "method.budget=100") == 2
    assert "method.budget=100" in capsys.readouterr().err
