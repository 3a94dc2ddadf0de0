"""A default is written once: in the YAML file that shows the key to a user."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
from omegaconf import MISSING

from peftbench.config import registry, schema, sections
from peftbench.config.catalogue import names
from peftbench.config.schema import packaged_values
from peftbench.formulations.cloze import ClozeConfig
from peftbench.formulations.edit_spans import EditSpansConfig
from peftbench.formulations.embed import EmbedConfig
from peftbench.formulations.generate import GenerateConfig
from peftbench.formulations.mask_predict import MaskPredictConfig
from peftbench.formulations.possibilities import PossibilitiesConfig
from peftbench.formulations.prompted import PromptedConfig
from peftbench.formulations.score import ScoreConfig
from peftbench.formulations.wordings import WordingsConfig
from peftbench.stages.classical import ClassicalOptions
from peftbench.tuners.dept import DeptOptions
from peftbench.tuners.mam import MamOptions

WORDS = {"likelihood", "candidates", "candidates_sha256", "calibration", "prior_rows", "answers", "prompt"}
WORDS |= {"answer_tokens", "constrain", "sample", "sample_seed", "samples", "temperature", "top_p"}
NEUTRAL: dict[type, set[str]] = {
    schema.FormulationConfig: {"dense", "pooling", "answers"},
    EmbedConfig: {"pooling"},
    **dict.fromkeys((ScoreConfig, GenerateConfig, PromptedConfig, EditSpansConfig, PossibilitiesConfig), WORDS),
    ClozeConfig: {"dense", "pooling", "answers"},
    WordingsConfig: {"answers", "prompt"},
    MaskPredictConfig: {"answers"},
    ClassicalOptions: {"vocabulary", "max_terms"},
}
"""Keys that came later, whose default in the class says what a config or record without them means. (Of tuners:
`target` and `layers`, where nothing is chosen.)"""

BEHIND = [
    *((registry.get("tuner", name).options, f"method/tuner/{name}", "") for name in names("method/tuner")),
    (schema.FormulationConfig, "method/formulation/head", ""),
    (ClozeConfig, "method/formulation/cloze", ""),
    (schema.TrainerConfig, "trainer/fewshot", ""),
    (schema.ProtocolConfig, "protocol/default", ""),
    (schema.TrackingConfig, "tracking/default", ""),
    (schema.SearchConfig, "search/none", ""),
    (registry.get("stage", "classical").options, "method/tfidf_lr", "classical"),
    (registry.get("stage", "ensemble").options, "method/pet", "pet"),
    (registry.get("stage", "self_training").options, "method/self_training/short", ""),
    (EmbedConfig, "method/formulation/embed", ""),
    (ScoreConfig, "method/formulation/score", ""),
    (GenerateConfig, "method/formulation/generate", ""),
    (PromptedConfig, "method/formulation/prompted", ""),
    (EditSpansConfig, "method/formulation/edit_spans", ""),
    (MaskPredictConfig, "method/formulation/mask_predict", ""),
    (PossibilitiesConfig, "method/formulation/possibilities", ""),
    (WordingsConfig, "method/formulation/wordings", ""),
    (registry.get("stage", "remote").options, "method/remote", "remote"),
    (registry.get("stage", "prompt_search").options, "method/promptflow", "prompt_search"),
    *((registry.get("trick", n).options, f"method/trick/{n}", n) for n in sorted(registry.built_in("trick"))),
    *((registry.get("inference", n).options, f"method/inference/{n}", "") for n in names("method/inference")),
    *((registry.get("recipe", n).options, f"recipe/{n}", "") for n in sorted(registry.built_in("recipe"))),
    (registry.get("stage", "replay").options, "method/replay", "replay"),
    (registry.get("stage", "reinforcement").options, "method/ppo", "reinforcement"),
    (registry.get("stage", "contrastive").options, "method/setfit", "contrastive"),
    (registry.get("stage", "logistic_head").options, "method/setfit", "logistic_head"),
    (registry.get("stage", "continued_pretraining").options, "method/pcp", "continued_pretraining"),
    (registry.get("stage", "language_adapters").options, "method/madx", "language_adapters"),
]


@pytest.mark.parametrize(("behind", "file", "section"), BEHIND, ids=lambda value: getattr(value, "__name__", value))
def test_a_default_stands_in_the_file_and_nowhere_else(behind: Any, file: str, section: str) -> None:
    values = packaged_values(file, section)
    for field in dataclasses.fields(behind):
        if field.name not in values or field.name in {"name", *NEUTRAL.get(behind, ())}:
            continue
        if file.startswith("method/tuner/") and (field.name, field.default) in (("target", None), ("layers", "all")):
            continue
        own = field.default not in (dataclasses.MISSING, MISSING)
        assert not own, f"{behind.__name__}.{field.name} has a default of its own"
        assert isinstance(field.default_factory, partial), f"{behind.__name__}.{field.name} does not ask the file"
        assert field.default_factory() == values[field.name]


def test_every_stage_and_tuner_has_its_file_here() -> None:
    listed = {behind for behind, _, _ in BEHIND}
    assert {registry.get("tuner", name).options for name in registry.built_in("tuner")} <= listed
    stages = {registry.get("stage", name).options for name in registry.built_in("stage")}
    assert stages - {None} <= listed


LEFT_OUT: dict[type, dict[str, Any]] = {
    schema.ModelConfig: {"pooling": "mean", "load": "fp32"},
    schema.TaskConfig: {"fields": ["text", "pair"]},
    schema.MethodConfig: {"needs_model": True, "stages": ["supervised"], "formulation": schema.FormulationConfig},
}
"""Sections of which every choice is a file of its own -> keys that mean something in a file that leaves them out."""


@pytest.mark.parametrize("section", LEFT_OUT, ids=lambda section: section.__name__)
def test_a_key_that_a_file_leaves_out_means_nothing(section: type) -> None:
    """Or what is written here: no other value is decided in the class, out of a reader's sight."""
    for field in dataclasses.fields(section):
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if made is dataclasses.MISSING or made == MISSING or not made:
            continue
        wanted = LEFT_OUT[section].get(field.name)
        assert isinstance(made, wanted) if isinstance(wanted, type) else made == wanted, field.name


@pytest.mark.parametrize(("group", "section"), [("model", schema.ModelConfig), ("method", schema.MethodConfig)])
def test_what_has_no_default_stands_in_every_file(group: str, section: type) -> None:
    needed = {field.name for field in dataclasses.fields(section) if field.default == MISSING}
    for name in names(group):
        given = packaged_values(f"{group}/{name}", "")
        assert needed <= given.keys(), f"{group}={name}"


def test_a_dataclass_made_by_hand_equals_the_file() -> None:
    assert (DeptOptions().num_virtual_tokens, DeptOptions().rank) == (8, 9)
    assert (MamOptions().num_virtual_tokens, MamOptions().scale) == (30, 4.0)
    assert DeptOptions("dept", rank=4) == sections.build(DeptOptions, {"name": "dept", "rank": 4}, "method.tuner")


def test_the_options_of_every_formulation_are_here() -> None:
    listed = {behind for behind, _, _ in BEHIND}
    assert {registry.get("formulation", name).options for name in registry.built_in("formulation")} <= listed
