"""The sizes that the PEFT review (Xu et al., arXiv 2312.12148) gives for RoBERTa, to the last parameter.

Counted at one and two layers of the real width and carried on in a straight line: the vocabulary has no part in them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_models import tiny_backbone
from transformers import RobertaConfig, RobertaModel

from peftbench.config import compose
from peftbench.config.schema import FormulationConfig
from peftbench.formulations.head.formulation import HeadFormulation
from peftbench.models.base import Backbone
from peftbench.tasks.base import DataSource, TaskData
from peftbench.tuners import TunerContext, build_tuner

TASK = TaskData("rte", "rte", (), (), (), ("yes", "no"), {}, ("text", "pair"), "classification", "accuracy",
                ("accuracy",), DataSource("packaged", ""))  # fmt: skip
WIDTHS = {"base": (768, 3072, 12), "large": (1024, 4096, 24)}
SIZES = {
    "prompt_tuning method.tuner.num_virtual_tokens=20 method.tuner.init=vocab": (607_490, 1.07),
    "prefix_tuning method.tuner.num_virtual_tokens=20 method.tuner.init=random": (960_770, 2.03),
    "ia3": (656_642, 1.22),
    "bitfit": (694_274, 1.32),
    "lora method.tuner.rank=8": (887_042, 1.84),
    "adalora method.tuner.init_rank=12": (1_034_786, 2.23),
}
"""Method -> trained numbers of base with its head, and millions of large as the review rounds them."""


def roberta(size: str, layers: int) -> Backbone:
    width, inner, _ = WIDTHS[size]
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": 64}
    sizes |= {"num_attention_heads": width // 64, "max_position_embeddings": 66}
    config = RobertaConfig(**sizes, pad_token_id=1, bos_token_id=0)
    model = RobertaModel(config, add_pooling_layer=False).eval()
    widths = dict.fromkeys(("hidden_size", "output_size", "embedding_size"), width)
    return replace(tiny_backbone("roberta"), model=model, **widths)


def trained(method: str, size: str, layers: int) -> int:
    backbone = roberta(size, layers)
    tuner = build_tuner(compose([f"method={method.split()[0]}", *method.split()[1:]]).method.tuner)
    model = tuner.build(backbone, TunerContext(32, ("yes", "no"), 1))
    return sum(p.numel() for group in tuner.param_groups(model).values() for p in group)


def head(size: str) -> int:
    formulation = HeadFormulation(roberta(size, 1), TASK, 32, FormulationConfig(name="head", dense=True))
    return sum(p.numel() for p in formulation.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", SIZES, ids=lambda m: m.split()[0])
@pytest.mark.parametrize("size", WIDTHS)
def test_sizes_are_the_reviews(method: str, size: str) -> None:
    one, two = (trained(method, size, layers) for layers in (1, 2))
    found = one + (WIDTHS[size][2] - 1) * (two - one) + head(size)
    exact, rounded = SIZES[method]
    assert (found == exact) if size == "base" else (round(found / 1e6, 2) == rounded)


def test_the_review_counts_robertas_own_head() -> None:
    assert (head("base"), head("large")) == (592_130, 1_051_650)
