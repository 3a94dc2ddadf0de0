"""The run id changes exactly with what decides the result."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.config import registry, schema
from peftbench.config.tasks import adapter_of
from peftbench.records.ids import EXCLUDED, content, run_id, variant

CONFIG: dict[str, Any] = {
    "model": {"name": "minilm", "pooling": "mean", "description": "words", "arch": {}},
    "method": {
        "name": "dept",
        "needs_model": True,
        "stages": ["supervised"],
        "tuner": {"name": "dept", "rank": 45},
        "formulation": {"name": "head"},
        "lr": {"prompt": 0.3},
        "paper": "words",
    },
    "task": {"name": "t", "subset": "eng", "subsets": {"eng": {"labels": ["a", "b"]}, "hau": {"labels": ["c"]}}},
    "protocol": {"name": "p", "unit": "per_class", "data_seed": None, "source": "words"},
    "trainer": {"name": "fewshot", "steps": 160, "progress": True, "threads": None, "checkpoint_every": None},
    "tracking": {"wandb": "auto"},
    "shots": 10,
    "seed": 1,
    "data_seed": None,
    "data_dir": None,
    "out_dir": "results",
    "rerun": False,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *groups, key = path.split(".")
    node = config
    for group in groups:
        node = node[group]
    node[key] = value
    return config


def name(config: dict[str, Any], draw: str = "d", data: str = "a", basis: Any = None) -> str:
    return run_id(config, draw, data, basis)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("out_dir", "elsewhere"),
        ("data_dir", "/data"),
        ("rerun", True),
        ("tracking.wandb", "disabled"),
        ("hydra", {"launcher": "slurm"}),
        ("trainer.progress", False),
        ("trainer.threads", 1),
        ("trainer.checkpoint_every", 5),
        ("trainer.name", "mine"),
        ("model.description", "other words"),
        ("method.paper", "other words"),
        ("protocol.source", "other words"),
        ("task.subsets.hau", {"labels": ["another subset"]}),
        ("shots", 10.0),
    ],
)
def test_what_does_not_decide_the_result_does_not_change_the_id(path: str, value: Any) -> None:
    assert name(changed(path, value)) == name(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("shots", 5),
        ("shots", "full"),
        ("seed", 2),
        ("data_seed", 1),
        ("model.pooling", "cls"),
        ("model.source", "hub"),
        ("method.tuner.rank", 30),
        ("method.lr.prompt", 0.1),
        ("task.subsets.eng", {"labels": ["b", "a"]}),
        ("protocol.unit", "total"),
        ("trainer.steps", 161),
        ("trainer.precision", "bf16"),
    ],
)
def test_what_decides_the_result_changes_the_id(path: str, value: Any) -> None:
    assert name(changed(path, value)) != name(CONFIG)


def test_draw_data_weights_and_results_versions_are_part_of_the_id() -> None:
    bases = [{"contents": {"model": "x"}}, {"contents": {"model": "y"}}, {"versions": {"tuner dept": 2}}]
    ids = {name(CONFIG), name(CONFIG, draw="e"), name(CONFIG, data="b"), *(name(CONFIG, basis=b) for b in bases)}
    assert len(ids) == 6


def test_where_weights_lie_counts_only_where_it_is_not_known_which_they_are() -> None:
    moved, basis = changed("model.source", "hub"), {"contents": {"model": "sha256:0"}}
    assert name(moved) != name(CONFIG)
    assert name(moved, basis=basis) == name(CONFIG, basis=basis)
    begun = changed("method.init_from", "0123")
    assert name(begun, basis=basis) != name(CONFIG, basis=basis)
    basis["contents"]["init_from"] = "sha256:1"
    assert name(begun, basis=basis) == name(CONFIG, basis=basis)


def test_the_model_counts_only_for_methods_that_need_one() -> None:
    floor = changed("method.needs_model", False)
    other = copy.deepcopy(floor)
    other["model"]["name"] = "e5-small-q4"
    assert name(floor) == name(other)
    assert name(changed("model.name", "e5-small-q4")) != name(CONFIG)


def test_the_config_is_left_as_it_was() -> None:
    before = copy.deepcopy(CONFIG)
    content(CONFIG)
    assert before == CONFIG


def test_excluded_keys_exist_in_the_schema() -> None:
    """A renamed key must not silently come back into the hash."""
    groups = {"model": "ModelConfig", "method": "MethodConfig", "task": "TaskConfig"}
    groups |= {"protocol": "ProtocolConfig", "trainer": "TrainerConfig"}
    tasks = {f.name for adapter in registry.names("adapter") for f in fields(adapter_of(adapter).config)}
    top = {f.name for f in fields(schema.RunConfig)} | {"hydra", "launcher"}
    for dotted in EXCLUDED:
        group, _, key = dotted.rpartition(".")
        known = {f.name for f in fields(getattr(schema, groups[group]))} if group else top
        assert key in (known | tasks if group == "task" else known), dotted


def test_a_real_config_hashes() -> None:
    trainer = asdict(schema.TrainerConfig(name="x"))
    assert len(name({**CONFIG, "trainer": trainer})) == 16


def test_seeds_share_a_variant_and_nothing_else_does() -> None:
    def mark(config: dict[str, Any]) -> str:
        return variant(config, "a")

    assert mark(changed("seed", 7)) == mark(changed("data_seed", 3)) == mark(CONFIG)
    assert mark(changed("method.tuner.rank", 30)) != mark(CONFIG)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["shots", "seed", "x", "y"]), values), st.randoms())
def test_the_order_of_keys_does_not_matter(config: dict[str, Any], random: Any) -> None:
    keys = list(config)
    random.shuffle(keys)
    assert name({key: config[key] for key in keys}) == name(config)


def test_the_id_is_the_same_in_another_process() -> None:
    code = f"from peftbench.records.ids import run_id; print(run_id({CONFIG!r}, 'd', 'a'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == name(CONFIG)
