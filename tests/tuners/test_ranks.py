"""A rank that no update of its shape can have is refused from the model's config alone, before weights are loaded."""

from __future__ import annotations

import pytest
from made_up_configs import compose

from peftbench.build import check_fit
from peftbench.errors import UsageError
from peftbench.tuners import TunerContext, build_tuner

CONTEXT = TunerContext(max_length=24, label_words=(), seed=0)
LIMITS = {  # tiny-bert is 64 wide; its feed-forward 128; the offset has 24 positions
    "lora": ("rank", 64),
    "dora": ("rank", 64),
    "adalora": ("init_rank", 64),
    "loha": ("options.r", 64),
    "pissa": ("options.r", 64),
    "dept": ("rank", 24),
    "ept": ("rank", 24),
    "moe_lora": ("rank", 64),
}


def check(*overrides: str) -> None:
    cfg = compose([*overrides, "model=tiny-bert"])
    check_fit(build_tuner(cfg.method.tuner), cfg.model, "features", CONTEXT)


@pytest.mark.parametrize("method", LIMITS)
def test_a_rank_up_to_the_smaller_side(method: str) -> None:
    key, limit = LIMITS[method]
    check(f"method={method}", f"method.tuner.{key}={limit}")
    words = rf"^method\.tuner\.{key}={limit + 1}: on model=tiny-bert, an .* of at most {limit}\. Set .*{key}={limit} or"
    with pytest.raises(UsageError, match=words):
        check(f"method={method}", f"method.tuner.{key}={limit + 1}")


def test_the_smallest_matrix_is_named() -> None:
    feed_forward = "method.tuner.target_modules=[intermediate.dense]"
    with pytest.raises(UsageError, match=r"`encoder\.layer\.0\.intermediate\.dense` \(128 x 64\)"):
        check("method=lora", feed_forward, "method.tuner.rank=65")


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=vera", "method.tuner.options.r=256"],  # random factors: more than 64 go on adding updates
        ["method=adept", "method.tuner.rank=100"],  # a ReLU between the factors
        ["method=prompt_tuning", "method.tuner.num_virtual_tokens=100"],
    ],
)
def test_what_is_no_rank_of_a_product_has_no_such_limit(overrides: list[str]) -> None:
    check(*overrides)
