"""Gradient checkpointing with every tuner: activations are made again, gradients are the same."""

from __future__ import annotations

import pytest
import torch

from peftbench.build import build_learner
from peftbench.config import compose
from peftbench.config.catalogue import names
from peftbench.errors import UsageError
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.tasks.base import DataSource, Row, TaskData
from peftbench.training.loop import _gradient_checkpointing

ROWS = [Row("a", "The team won the cup", "sports"), Row("b", "Parliament passed a long law on water", "politics")]
TASK = TaskData(
    name="toy", subset="", train=ROWS, dev=[], test=ROWS, labels=("politics", "sports"), label_words={},
    fields=("text",), problem="classification", main_metric="accuracy", metrics=("accuracy",),
    source=DataSource("packaged", "test"),
)  # fmt: skip
MODELS = ("tiny-bert", "tiny-llama", "tiny-t5")
FAST = {("lora", "tiny-llama"), ("prompt_tuning", "tiny-bert")}
CASES = [
    pytest.param(method, model, marks=() if (method, model) in FAST else pytest.mark.slow)
    for method in names("method")
    for model in MODELS
]


def gradients(method: str, model: str, wanted: bool) -> dict[str, torch.Tensor]:
    cfg = compose([f"model={model}", f"method={method}", "shots=2", "trainer.max_length=24", "trainer.dropout=0.0"])
    net: Learner = build_learner(cfg, TASK, PhaseClock(), shots=ROWS)[0].train()
    if hasattr(net.formulation, "pair_items"):
        raise UsageError("trained on pairs of texts, by a stage of its own")
    if not any(p.requires_grad for p in net.parameters()):
        raise UsageError("nothing is trained")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    net.begin_step(0, 1, items := net.encode(ROWS))
    with _gradient_checkpointing(net, wanted):
        net(net.collate(items)).backward()
    return {name: p.grad for name, p in net.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize(("method", "model"), CASES)
def test_gradients_are_the_same(method: str, model: str) -> None:
    try:
        plain = gradients(method, model, wanted=False)
        again = gradients(method, model, wanted=True)
    except UsageError as error:
        pytest.skip(str(error))  # no network, another family, what needs files; a prefix in the key/value cache
    if not plain:
        pytest.skip("nothing is trained")
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        apart = (again[name] - gradient).abs().max()
        assert apart <= 1e-3 * gradient.abs().max() + 1e-6, name
