"""FLOPs of a step of the methods of Zlotchevski et al. (arXiv 2208.13928), against 2 N a token for the forward pass,
2 N for the gradients of activations as far back as something is trained, 2 N of what is trained for those of weights:
N weights in matrices that are multiplied with."""

from __future__ import annotations

import pytest
import torch
from made_up_configs import compose

from peftbench.measure.probe import probe_step
from peftbench.models import load_backbone
from peftbench.tuners import build_tuner
from peftbench.tuners.base import TunerContext

TOKENS = 2
"""So few that attention's own products are below 1 %."""


def flops(method: str) -> tuple[float, int, int]:
    """Of a step, by 2 a token; weights in the matrices of the two blocks, and of the output layer."""
    cfg = compose(["model=tiny-llama", f"method={method}"])
    backbone = load_backbone(cfg.model, "lm")
    model = build_tuner(cfg.method.tuner).build(backbone, TunerContext(16, ("a",), 1))
    blocks = sum(p.numel() for n, p in backbone.model.named_parameters() if p.dim() == 2 and "layers" in n)
    ids = torch.arange(5, 5 + TOKENS)[None]
    found = probe_step(lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().sum())
    output = backbone.model.get_output_embeddings().weight.numel()  # type: ignore[union-attr]
    return found.step_flops / (2 * TOKENS), blocks, output


@pytest.mark.parametrize("method", ["full", "embed_head", "last_layer"])
def test_operations_follow_the_formula(method: str) -> None:
    counted, blocks, output = flops(method)
    expected = {
        "full": 3 * (blocks + output),
        "embed_head": 2 * blocks + 3 * output,  # tied: looked up without a product, multiplied with at the end
        "last_layer": 2 * output + (1 + 3) * blocks / 2,
    }[method]
    assert counted == pytest.approx(expected, rel=0.01)
