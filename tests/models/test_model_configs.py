"""Every YAML in conf/model is valid, says what it must, and its first line is the command that runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

import peftbench.conf
from peftbench.config.hydra_source import CONFIG_MODULE, HYDRA_DEFAULTS

MODELS = Path(peftbench.conf.__file__).parent / "model"
CHOICES = sorted(str(p.relative_to(MODELS).with_suffix("")) for p in MODELS.rglob("*.yaml"))
ASKED_FOR = {
    *("minilm", "e5-small-q4", "smollm2-135m", "tiny-bert", "tiny-roberta", "tiny-t5", "tiny-llama"),
    *("arch/t5-base", "arch/t5-large", "arch/roberta-large", "arch/llama-1b"),
    *(
        "bert-base",
        "roberta-base",
        "roberta-large",
        "xlm-roberta-base",
        "xlm-roberta-large",
        "mbert",
        "scibert",
        "berturk",
    ),
    *("afro-xlmr-base", "afro-xlmr-large", "mdeberta-v3-base", "afriberta-large"),
    *("t5-base", "t5-large", "t5-3b", "flan-t5-base", "gpt2", "llama-3.2-1b", "llama-2-7b", "hub", "local"),
}


def test_every_model_of_the_plan_is_there():
    assert set(CHOICES) >= ASKED_FOR


@pytest.mark.parametrize("choice", CHOICES)
def test_yaml_is_a_model_config(choice, model_config):
    changes = {"path": "org/name"} if choice in ("hub", "local", "gguf") else {}
    cfg = model_config(choice, **changes)
    assert cfg.name == (choice if not changes else "org/name")
    assert cfg.licence
    assert cfg.description
    assert (cfg.source == "random") == bool(cfg.arch)
    assert (cfg.source == "random") == (cfg.path is None)


@pytest.mark.parametrize("choice", CHOICES)
def test_first_line_is_the_command_and_long_lines_do_not_occur(choice):
    lines = (MODELS / f"{choice}.yaml").read_text().splitlines()
    assert re.match(rf"# peftbench model={re.escape(choice)} ", lines[0])
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("choice", CHOICES)
def test_hub_revision_is_a_commit_or_the_file_says_what_happens(choice, model_config):
    if choice in ("hub", "local", "gguf"):
        return
    cfg = model_config(choice)
    if cfg.source == "parts":
        assert re.fullmatch("[0-9a-f]{64}", cfg.sha256)
    elif cfg.source != "hub":
        assert cfg.revision is None
    elif not re.fullmatch("[0-9a-f]{40}", cfg.revision or ""):
        assert cfg.revision == "main"
        assert "model.revision=COMMIT" in (MODELS / f"{choice}.yaml").read_text()


def test_nested_choice_lands_in_the_model_section():
    with initialize_config_module(CONFIG_MODULE, **HYDRA_DEFAULTS):
        assert compose(overrides=["+model=arch/t5-base"]).model.arch.d_model == 768


@pytest.mark.parametrize(("family", "usual"), [("encoder", "mean"), ("causal", "last"), ("seq2seq", "mean")])
def test_one_vector_a_text_is_read_as_the_family_does_unless_told_otherwise(family, usual, model_config):
    for choice in ("hub", "local"):
        assert model_config(choice, path="org/name", family=family).pooling == usual
        assert model_config(choice, path="org/name", family=family, pooling="cls").pooling == "cls"
