"""Any checkpoint by its path: family, module names and refusals come from its config.json, and nobody types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_networks import save_backbone

from peftbench import cli
from peftbench.config import compose
from peftbench.config.families import family_of
from peftbench.conformance.architectures import architectures
from peftbench.errors import UsageError
from peftbench.models import load_backbone

DEBUG = ["task=demo_news", "shots=2", "trainer=debug", "trainer.progress=false"]


def exit_code(args: list[str]) -> int:
    """Of the command."""
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    return int(stop.value.code or 0)


def checkpoint(name: str, folder: Path) -> str:
    """A tiny checkpoint, as save_pretrained writes it."""
    cfg = architectures()[name]
    return str(save_backbone(load_backbone(cfg, "lm" if cfg.family != "encoder" else "features"), folder))


@pytest.mark.parametrize(("name", "method"), [("mpnet", "lora"), ("phi3", "houlsby")])
def test_a_path_is_enough(name: str, method: str, tmp_path: Path) -> None:
    where = ["model=local", f"model.path={checkpoint(name, tmp_path / 'model')}", f"out_dir={tmp_path / 'out'}"]
    assert exit_code([f"method={method}", *where, *DEBUG]) == 0
    (file,) = (tmp_path / "out" / "records").glob("*.json")
    record = json.loads(file.read_text())
    assert record["status"] == "done"
    assert record["config"]["model"]["family"] == architectures()[name].family
    assert record["config"]["method"]["tuner"].get("target_modules") is None


def test_what_cannot_work_is_said_before_there_are_weights(tmp_path: Path, capsys) -> None:
    folder = checkpoint("llama", tmp_path / "model")
    for weights in Path(folder).glob("*.safetensors"):
        weights.unlink()
    where = ["model=local", f"model.path={folder}", f"out_dir={tmp_path / 'out'}"]
    assert exit_code(["method=bitfit", *where, *DEBUG]) == 2
    assert "has no bias to train. Set method.tuner.add_missing=true" in capsys.readouterr().err
    assert exit_code(["method=lora", *where, *DEBUG]) == 2
    assert "no *.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(architectures()))
def test_the_family_is_read_off_the_config(name: str) -> None:
    from transformers import AutoConfig

    kind = AutoConfig.for_model(name)
    config = {"model_type": name, "is_encoder_decoder": kind.is_encoder_decoder}
    assert family_of(config, "x") == architectures()[name].family


def test_classes_say_the_family_without_transformers() -> None:
    assert family_of({"architectures": ["MPNetForMaskedLM"], "model_type": "?"}, "x") == "encoder"
    assert family_of({"architectures": ["BartForConditionalGeneration"]}, "x") == "seq2seq"
    assert family_of({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "x") == "encoder"
    with pytest.raises(UsageError, match=r"model\.path=x: its config\.json names no model_type"):
        family_of({}, "x")


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder.*model=local wants a folder"):
        compose(["model=local", f"model.path={tmp_path / 'nothing'}", "method=lora"])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UsageError, match="holds a list, not a JSON object"):
        compose(["model=local", f"model.path={tmp_path}", "method=lora"])


def test_a_hub_model_that_is_not_here_asks_for_its_family(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"config\.json of some/one at main cannot be had.*model\.family=encoder"):
        compose(["model=hub", "model.path=some/one", "method=lora"])
    assert compose(["model=hub", "model.path=some/one", "model.family=causal", "method=lora"]).model.pooling == "last"
