import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peftbench.errors import UsageError
from peftbench.training.optim import build_optimizer, lr_factor, set_lr


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.sampled_from([0.0, 0.06, 0.5, 1.0, 5.0, 80.0]),
    st.sampled_from(["linear", "cosine", "constant"]),
)
def test_schedules_are_those_of_transformers(steps, warmup, schedule):
    from transformers import get_scheduler

    rise = int(-(-warmup * steps // 1)) if warmup < 1 else int(warmup)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    kind = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(kind, optimizer, num_warmup_steps=rise, num_training_steps=steps)
    for step in range(steps):
        assert lr_factor(step, steps, warmup, schedule) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def groups():
    return {
        "prompt": [nn.Parameter(torch.ones(4, 2))],
        "head": [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))],
    }


def test_each_group_has_its_rate_and_only_matrices_decay():
    made = build_optimizer(groups(), {"prompt": 0.3, "head": 1e-3}, weight_decay=0.1)
    found = {(g["name"], g["lr"], g["weight_decay"], p.ndim) for g in made.param_groups for p in g["params"]}
    assert found == {("prompt", 0.3, 0.1, 2), ("head", 1e-3, 0.1, 2), ("head", 1e-3, 0.0, 1)}
    assert set_lr(made, 0.5) == {"prompt": 0.15, "head": 5e-4}
    assert set_lr(made, 1.0) == {"prompt": 0.3, "head": 1e-3}
    released = build_optimizer(
        groups(), {"prompt": 0.3, "head": 1e-3}, 0.0, beta2=0.98, epsilon=1e-6, constant=["head"]
    )
    assert (released.defaults["betas"], released.defaults["eps"]) == ((0.9, 0.98), 1e-6)
    assert set_lr(released, 0.5) == {"prompt": 0.15, "head": 1e-3}, "KPT's words' weights keep their rate"


def test_rates_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match=r"method\.lr\.promt: no such parameter group.*`prompt`"):
        build_optimizer(groups(), {"promt": 0.3, "head": 1e-3}, 0.0)
    with pytest.raises(UsageError, match=r"no learning rate for the parameter group `head`"):
        build_optimizer(groups(), {"prompt": 0.3}, 0.0)
    with pytest.raises(UsageError, match="nothing to train"):
        build_optimizer({}, {}, 0.0)
