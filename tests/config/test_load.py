"""Composition and its checks: what users mistype must end in one message that names the way out."""

import functools
import re

import pytest
from hydra import initialize_config_module

from peftbench.config import compose, composition
from peftbench.config.catalogue import entries, names
from peftbench.config.hydra_source import CONFIG_MODULE, HYDRA_DEFAULTS
from peftbench.config.load import compose_raw, from_plain, opened_for_sweep, resolve
from peftbench.config.schema import RunConfig
from peftbench.config.sections import build_section
from peftbench.config.space import read_space, value_at
from peftbench.errors import UsageError

NEEDS = {
    "hub": ["model.path=some/where", "model.family=encoder"],
    "local": ["model.path=some/where", "model.family=encoder"],
    "gguf": ["model.path=some/where.gguf"],
    "peft": ["method.type=VERA"],
    "sequence": ["task.of=[sst2,ag_news]"],
    "method/file": [f"method.tuner.file={__file__}"],
}
"""Choices that are nothing without a further key."""


def message(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        compose(overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_default_is_the_packaged_demo():
    cfg = compose()
    assert (cfg.model.name, cfg.method.name, cfg.task.name, cfg.shots) == ("minilm", "dept", "demo_news", 10)


def test_four_axes():
    cfg = compose(["method=lora", "task=masakhanews", "task.lang=hau", "shots=full", "model=tiny-bert"])
    assert (cfg.method.tuner.name, cfg.task.subset, cfg.shots, cfg.model.name) == ("lora", "hau", "full", "tiny-bert")


@pytest.mark.parametrize(
    ("override", "named", "near"),
    [
        ("method=detp", "method=detp", "`dept`"),
        ("model=minilmm", "model=minilmm", "`minilm`"),
        ("trainer.stpes=3", "trainer.stpes", "`trainer.steps`"),
        ("method.tuner.rnak=3", "method.tuner.rnak", "`method.tuner.rank`"),
        ("metod=dept", "metod", "`method`"),
        ("sede=1", "sede", "`seed`"),
        ("trainer.schedule=linera", "trainer.schedule", "`linear`"),
        ("trainer.steps=abc", "trainer.steps", "abc"),
        ("trainer.batch_size=0", "trainer.batch_size=0", "at least 1"),
        ("trainer.dropout=1.5", "trainer.dropout", "at most 0.9"),
        ("shots=-1", "shots=-1", "full"),
        ("shots=many", "shots=many", "full"),
        ("shots=2.5", "shots=2.5", "whole number"),
        ("seed=-3", "seed=-3", "whole number"),
        ("rerun=maybe", "rerun", "true or false"),
        ("shots", "shots", "key=value"),
        ("model=hub", "model.path", "model.path=VALUE"),
        ("+trainer.extra=1", "trainer.extra", "no such key"),
    ],
)
def test_mistakes_are_named_with_the_nearest_choice(override, named, near):
    text = message(override)
    assert named in text
    assert near in text


def test_an_unknown_key_costs_one_composition_at_most(monkeypatch):
    from peftbench.config import load

    calls, real = [], load.compose_by_hydra
    monkeypatch.setattr(load, "compose_by_hydra", lambda *args, **keys: calls.append(1) or real(*args, **keys))
    assert "Did you mean `trainer.steps`" in message("trainer.stpes=3")
    assert len(calls) == 0
    assert "Did you mean `method.lr.head`" in message("method.lr.haed=3")
    assert len(calls) == 1


def test_another_formulation_than_the_methods_own_is_possible_but_for_its_keys():
    text = message("method=list", "method/formulation=head")
    assert "method/formulation=head: only `cloze` has method.formulation.prefer, method.formulation.train_head" in text
    rest = text.rpartition("sets: ")[2].replace("'", "").split()
    cfg = compose(["method=list", "method/formulation=head", *rest])
    assert cfg.method.formulation.name == "head"


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lora", "seed=3", "+method/trick=[ema]", "++task.lang=swa"],
        ["+recipe=augmentation", "~method.space", "trainer.steps=5"],
        ["model=local", "model.path=${out_dir}/x", "tracking.wandb=disabled"],
    ],
)
def test_without_hydras_own_section_a_config_is_the_same(overrides):
    with initialize_config_module(CONFIG_MODULE, **HYDRA_DEFAULTS):
        assert composition.loaded("config", overrides) == composition.whole_command(overrides)


def test_a_file_that_sets_something_of_hydras_is_composed_with_all_of_it(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\nseed: 7\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    (tmp_path / "experiment" / "wide.yaml").write_text(
        "# @package _global_\nhydra:\n  launcher:\n    n_jobs: 2\nseed: 8\n"
    )
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    calls, real = [], composition.whole_command
    monkeypatch.setattr(composition, "whole_command", lambda *args: calls.append(1) or real(*args))
    assert (compose(["+experiment=mine"]).seed, compose(["+experiment=wide"]).seed, len(calls)) == (7, 8, 2)
    assert compose(["hydra.launcher.n_jobs=3", "seed=9"]).seed == 9
    assert compose(["seed=1"]).seed == 1
    assert len(calls) == 3


def test_an_unknown_key_in_a_file_is_not_looked_for_again_and_again(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\ndefaults:\n  - override hydra/launcher: slurm\n")
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    calls, real = [], composition.loaded
    monkeypatch.setattr(composition, "loaded", lambda *args: calls.append(1) or real(*args))
    assert "experiment/hydra/launcher" in message("+experiment=mine")
    assert len(calls) == 2


@functools.cache
def default() -> tuple[dict, RunConfig]:
    plain = resolve(compose_raw([]))
    return plain, from_plain(plain)


def needs_of(group: str, name: str) -> list[str]:
    return NEEDS.get(name, NEEDS.get(f"{group}/{name}", []))


def in_place_of_the_default(group: str, name: str) -> RunConfig:
    """The default config with one section from its own file and what that names, composed without the rest."""
    plain, known = default()
    referred_to = f"+shots={plain['shots']}"
    with initialize_config_module(CONFIG_MODULE, **HYDRA_DEFAULTS):
        chosen = resolve(composition.loaded(None, [referred_to, f"+{group}={name}", *needs_of(group, name)]))

    def section(key: str, own: dict) -> object:
        return build_section(key, own) if key in chosen else getattr(known, key)

    return from_plain({**plain, **chosen}, section)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["model", "method", "task", "protocol"])
def test_a_choice_in_a_whole_config_is_what_its_file_says(group):
    for name in names(group):
        assert compose([f"{group}={name}", *needs_of(group, name)]) == in_place_of_the_default(group, name), name


@pytest.mark.parametrize("group", ["model", "method", "task", "protocol"])
def test_every_choice_of_an_axis_composes(group):
    for name in names(group):
        cfg = in_place_of_the_default(group, name)
        if group == "method" and name != "file" and (cfg.method.lr or cfg.method.space):  # a rate is there to be tuned
            for dimension in read_space(cfg):
                assert dimension.contains(value_at(cfg, dimension.key)), f"{name}: {dimension.key}"


def test_every_trainer_composes():
    for name in names("trainer"):
        assert compose([f"trainer={name}"]).trainer.name == name


def test_every_choice_says_what_it_is():
    for group in ("model", "method", "task", "protocol"):
        for entry in entries(group):
            assert entry["description"], f"{group}={entry['name']} has no description"


def test_a_config_survives_the_way_through_json():
    import json
    from dataclasses import asdict

    cfg = compose(["method=dept", "task=masakhanews", "task.lang=swa"])
    assert from_plain(json.loads(json.dumps(asdict(cfg)))) == cfg


def test_every_config_file_opens_with_the_command_that_runs_it():
    from importlib.resources import files

    def walk(folder):
        for item in folder.iterdir():
            if item.is_dir():
                yield from walk(item)
            elif item.name.endswith(".yaml"):
                yield item

    for item in walk(files("peftbench.conf")):
        lines = item.read_text(encoding="utf-8").splitlines()
        first = lines[lines[0] == "# @package _global_"]  # Hydra reads that line only if it is the first
        assert first.startswith("# peftbench"), f"{item} opens with {first!r}"


def test_a_value_that_hydra_cannot_read_is_shown_with_its_quotes():
    with pytest.raises(UsageError, match=r"\"method\.formulation\.template='\{text\} x \{mask\}'\""):
        compose(["method.formulation.template={text} x {mask}"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.stages=0.5", "method.stages=0.5: must be a list"),
        ("method.tuner.target_modules=7", "method.tuner.target_modules: must be a list"),
        ("task.subset={a:1}", "task.subset: must be a text"),
    ],
)
def test_another_kind_of_value_is_named(override, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        compose(["method=lora", override])


@pytest.mark.parametrize("given", ["\n", "a\nb", "\x1b[31m", "x" * 5_000])
def test_a_message_shows_what_was_given_on_its_line(given):
    text = str(UsageError(f"{given}: no such key.\n  Looked below a folder"))
    first, second = text.split("\n")
    assert first.isprintable()
    assert len(text) < 200
    assert second == "  Looked below a folder"


def test_lines_longer_than_what_a_tuner_is_made_for_are_refused_when_composed():
    long = ["method=pcp", "model=minilm-mlm", "task=demo_news", "method.continued_pretraining.max_length=300"]
    for tuner in ("dept", "ept"):
        with pytest.raises(UsageError, match=r"max_length=300: .* each of trainer\.max_length=256 positions"):
            compose([*long, f"method/tuner={tuner}", "trainer.max_length=256"])
    compose([*long, "method/tuner=dept", "trainer.max_length=300"])
    compose([*long, "method/tuner=dept", "method.tuner.offset=token", "trainer.max_length=256"])
    compose([*long, "method/tuner=lora", "trainer.max_length=256"])


def test_a_sweep_over_files_may_set_keys_that_only_they_have():
    swept = opened_for_sweep(
        ["method=lora", "method/formulation=generate,edit_spans", "method.formulation.answer_tokens=8"]
    )
    assert swept == ["method=lora", "method/formulation=generate,edit_spans", "++method.formulation.answer_tokens=8"]
    assert opened_for_sweep(["method=lora", "method.tuner.rank=4,8", "task.lang=hau"])[1:] == [
        "method.tuner.rank=4,8",
        "++task.lang=hau",
    ]
    assert opened_for_sweep(["+recipe=subtasks,augmentation", "recipe.tokens=300", "seed=1,2"]) == [
        "+recipe=subtasks,augmentation",
        "++recipe.tokens=300",
        "seed=1,2",
    ]
    tricks = "+method/trick=[self_calibrated],[self_calibrated,adversarial]"
    assert opened_for_sweep(["method.trick.self_calibrated.folds=2", tricks]) == [
        "++method.trick.self_calibrated.folds=2",
        tricks,
    ]
