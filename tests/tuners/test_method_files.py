"""The method files and the tuners agree: every parameter group has a learning rate, and no rate is for nothing."""

from __future__ import annotations

import pytest
from made_up_configs import compose
from tiny_models import tiny_backbone

from peftbench.learner import HEAD
from peftbench.tuners import TunerContext, build_tuner

WEIGHT_SIDE = ("houlsby", "pfeiffer", "parallel", "mam", "lite", "compacter", "conv_adapter")
WEIGHT_SIDE += ("bitfit", "hft", "embed_head", "last_layer", "madx")
CASES = [(m, k) for m in ("full", "head_only", "lora", "prompt_tuning", "dept") for k in ("bert", "t5", "llama")]
CASES += [(method, "bert") for method in WEIGHT_SIDE]


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_learning_rates_fit_the_parameter_groups(method: str, kind: str) -> None:
    cfg = compose([f"method={method}"]).method
    tuner = build_tuner(cfg.tuner)
    model = tuner.build(tiny_backbone(kind), TunerContext(max_length=24, label_words=("sport",), seed=1))
    assert cfg.lr.keys() == tuner.param_groups(model).keys() | {HEAD}
    assert cfg.name == method
    assert tuner.cfg.name == method


def test_the_dept_defaults_are_as_large_as_the_prompt_tuning_defaults_on_minilm() -> None:
    dept, prompt = (compose([f"method={m}"]).method.tuner for m in ("dept", "prompt_tuning"))
    s, d = compose([]).trainer.max_length, 384
    assert dept.num_virtual_tokens * d + (s + d) * dept.rank == prompt.num_virtual_tokens * d
