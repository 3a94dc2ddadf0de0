"""`model.load`: the number format of the frozen weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from made_up_networks import write

from peftbench.build import build_learner
from peftbench.config import compose, registry
from peftbench.config.schema import TunerConfig
from peftbench.errors import UsageError
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.models.formats import count
from peftbench.tasks.base import DataSource, Row, TaskData

ROWS = [Row("a", "The team won the cup", "sports"), Row("b", "Parliament passed a long law", "politics")]
TASK = TaskData(
    name="toy", subset="", train=ROWS, dev=[], test=ROWS, labels=("politics", "sports"), label_words={},
    fields=("text",), problem="classification", main_metric="accuracy", metrics=("accuracy",),
    source=DataSource("packaged", "test"),
)  # fmt: skip
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def learner(*overrides: str) -> Learner:
    cfg = compose(["shots=2", "trainer.max_length=24", "trainer.device=cpu", "trainer.precision=bf16", *overrides])
    return build_learner(cfg, TASK, PhaseClock())[0].eval()


def local(folder: Path) -> list[str]:
    from transformers import AutoModelForCausalLM

    write(folder, "llama-64", AutoModelForCausalLM)
    return ["model=local", f"model.path={folder}", "model.family=causal", "model.pooling=last"]


def one_step(net: Learner) -> dict[str, torch.Tensor]:
    """Gradients of what is trained, after a pass and its way back."""
    with torch.autocast("cpu", torch.bfloat16, enabled=net.config.model.load == "bf16"):  # type: ignore[union-attr]
        net(net.collate(net.encode(ROWS))).backward()
    return {n: p.grad for n, p in net.named_parameters() if p.requires_grad and p.grad is not None}


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_weights_in_bf16_take_half_the_memory_and_what_is_trained_stays_fp32(method: str) -> None:
    net = learner("model=tiny-llama", "model.load=bf16", f"method={method}")
    frozen = {p.dtype for p in net.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    gradients = one_step(net)
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    assert any(g.abs().sum() > 0 for g in gradients.values())


def test_a_method_that_trains_the_weights_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftbench.models.load_backbone", lambda *_, **__: pytest.fail("loaded"))
    for load in ("bf16", "int8", "nf4"):
        with pytest.raises(UsageError, match=rf"model\.load={load}: method=full trains weights.*such as lora"):
            learner("model=minilm", "method=full", f"model.load={load}")


def test_formats_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"model=tiny-bert has random weights"):
        learner("model=tiny-bert", "method=lora", "model.load=nf4")
    with pytest.raises(UsageError, match=r"model\.load=bf16.*trainer\.precision=bf16"):
        learner("model=tiny-bert", "method=lora", "model.load=bf16", "trainer.precision=fp32")
    monkeypatch.setattr("peftbench.models.formats.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r'pip install "peftbench\[quantised\]"'):
        learner("model=minilm", "method=lora", "model.load=nf4")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry.built_in("tuner")))
def test_tuners_declare_whether_they_train_weights_of_the_backbone(name: str) -> None:
    declared = registry.get("tuner", name)
    if declared.options is TunerConfig:
        pytest.skip("takes no options of its own")
    methods = {"peft": "ia3"}
    try:
        net = learner("model=tiny-bert", f"method={methods.get(name, name)}")
    except UsageError as error:
        pytest.skip(str(error))
    names = {n for n, _ in learner("model=tiny-bert", "method=head_only").backbone.model.named_parameters()}
    trained = {n.split("base_model.model.")[-1] for n, p in net.model.named_parameters() if p.requires_grad}
    assert bool(trained & names) == declared.trains_weights


@needs_bitsandbytes
@pytest.mark.parametrize("load", ["nf4", "int8"])
@pytest.mark.parametrize("method", ["lora", "houlsby", "prompt_tuning", "ia3"])
def test_what_adds_parameters_trains_on_quantised_weights(tmp_path: Path, load: str, method: str) -> None:
    where = local(tmp_path)
    net, plain = (learner(*where, f"method={method}", f"model.load={form}") for form in (load, "fp32"))
    assert {p.dtype for p in net.parameters() if p.requires_grad} == {torch.float32}
    assert net.counts() == plain.counts(), "packed numbers count as what they stand for"
    gradients = one_step(net)
    assert any(g.abs().sum() > 0 for g in gradients.values())
    sizes = [sum(p.numel() * p.element_size() for p in n.backbone.model.parameters()) for n in (net, plain)]
    linear = sum(count(p) for n, p in net.backbone.model.named_parameters() if p.dtype in (torch.uint8, torch.int8))
    assert sizes[1] - sizes[0] == pytest.approx(linear * (3.5 if load == "nf4" else 3), rel=0.05)
    texts = [p.answer for p in net.predict(net.collate(net.encode(ROWS)))]
    assert all(isinstance(text, str) for text in texts)
