"""Norms by parameter group: right, at the right steps, and without any effect on the training."""

from __future__ import annotations

import pytest
import torch
from test_loop import run, same_state
from toy_learner import Toy

from peftbench.training import norms
from peftbench.training.norms import NormMeter


def measured(parameter: torch.nn.Parameter, steps: int, lr: float = 0.1) -> dict[str, list[float]]:
    """One group under plain gradient descent, so that update = rate x gradient."""
    meter, optimizer = NormMeter({"all": [parameter]}, steps), torch.optim.SGD([parameter], lr=lr)
    curves: dict[str, list[float]] = {}
    for step in range(steps):
        (parameter**2).sum().backward()
        meter.before_update(step)
        optimizer.step()
        meter.after_update(step)
        optimizer.zero_grad()
    meter.read(curves)
    return curves


def test_the_update_of_gradient_descent_is_rate_times_gradient() -> None:
    curves = measured(torch.nn.Parameter(torch.tensor([3.0, 4.0])), steps=2)
    assert curves["norm_step"] == [1, 2]
    assert curves["weight/all"] == pytest.approx([5.0, 4.0])
    assert curves["gradient/all"] == pytest.approx([10.0, 8.0])
    assert curves["update/all"] == pytest.approx([1.0, 0.8])


def test_a_large_tensor_is_sampled_and_scaled() -> None:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(300, 400))
    expected = float(parameter.detach().norm())
    curves = measured(parameter, steps=1)
    assert curves["gradient/all"] == pytest.approx([2 * expected], rel=1e-5)
    assert curves["weight/all"] == pytest.approx([expected], rel=0.03)
    assert curves["update/all"] == pytest.approx([0.2 * expected], rel=0.03)


def test_a_group_without_gradient_has_norm_zero() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    meter, curves = NormMeter({"idle": [parameter]}, 1), {}
    meter.before_update(0)
    meter.after_update(0)
    meter.read(curves)
    assert (curves["gradient/idle"], curves["update/idle"]) == ([0.0], [0.0])


@pytest.mark.parametrize(("steps", "at"), [(3, [1, 2, 3]), (160, list(range(20, 161, 20)))])
def test_a_training_reports_eight_steps(steps: int, at: list[int]) -> None:
    curves = run(Toy(), steps=steps).curves
    assert curves["norm_step"] == at
    for group in ("head", "backbone"):
        assert all(len(curves[f"{kind}/{group}"]) == len(at) for kind in ("gradient", "update", "weight"))
        assert curves[f"gradient/{group}"][-1] > 0


def test_measuring_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_norms, without = Toy(dropout=0.5), Toy(dropout=0.5)
    one = run(with_norms, steps=12)
    monkeypatch.setattr(norms, "MEASURED_STEPS", 0)
    other = run(without, steps=12)
    assert "norm_step" not in other.curves
    assert one.curves["loss"] == other.curves["loss"]
    assert same_state(with_norms, without)
