"""Prompts in a model's chat template."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from made_up_networks import write
from test_formulations import learner
from transformers import AutoModelForCausalLM

import peftbench
from peftbench.errors import UsageError
from peftbench.tasks.base import Row

TEMPLATE = (
    "<s>[{{ date_string }}]{% for turn in messages %}({{ turn.role }}) {{ turn.content }}{% endfor %}"
    "{% if add_generation_prompt %}(assistant)\n{% endif %}"
)
FRAME = "<s>[26 Jul 2024](user) text: {text}(assistant)\n"


@pytest.fixture
def chat(tmp_path: Path) -> list[str]:
    write(tmp_path / "model", "llama", AutoModelForCausalLM, TEMPLATE)
    where = ["model=local", f"model.path={tmp_path / 'model'}", "model.family=causal", "model.pooling=last"]
    return [*where, "trainer.max_length=48", "method.formulation.prompt=chat"]


def text_of(net: torch.nn.Module, ids: list[int]) -> str:
    return net.formulation.tokenizer.decode(ids).replace("<s> ", "<s>")  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("formulation", ["generate", "score"])
def test_a_prompt_is_the_users_turn_and_the_answer_the_assistants(chat: list[str], formulation: str) -> None:
    net = learner(*chat, "method=lora", f"method/formulation={formulation}")
    short, long = net.encode([Row("a", "Rain", "sports"), Row("b", "Rain and wind " * 60, "sports")])
    assert text_of(net, short.data["prompt"]) == FRAME.format(text="Rain")
    tokenizer = net.formulation.tokenizer
    assert short.data["answer"] == [*tokenizer("sports", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert len(long.data["prompt"]) + net.formulation.answer_length <= 48
    begin, end = FRAME.split("{text}")
    shown = text_of(net, long.data["prompt"])
    assert shown.startswith(f"{begin}Rain and wind")
    assert shown.endswith(end), "the text gives way, not its frame"


def test_no_template_no_chat() -> None:
    with pytest.raises(UsageError, match=r"prompt=chat: the tokenizer of model=tiny-llama has no chat template.*plain"):
        learner("model=tiny-llama", "method=lora", "method/formulation=score", "method.formulation.prompt=chat")


@pytest.mark.slow
def test_exported_code_asks_alike(chat: list[str], tmp_path: Path) -> None:
    quick = ["task=demo_news", "shots=1", "trainer=debug", "trainer.probe=false", "tracking.wandb=disabled"]
    kept = ["trainer.save=all", "trainer.precision=fp32", f"out_dir={tmp_path / 'results'}"]
    run = peftbench.run(*quick, *kept, *chat, "method=lora", "method/formulation=score")
    assert run.record.config["method"]["formulation"]["prompt"] == "chat"
    code = runpy.run_path(str(run.export(tmp_path / "exported") / "inference.py"))
    (found,), (wanted,) = code["predict"](["Rain"]), run.predict(["Rain"])
    assert found["scores"] == pytest.approx(wanted.scores, abs=1e-5)
