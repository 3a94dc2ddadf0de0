"""A run is named by what it uses: recorded ids of 209 commands, new knobs, defaults, releases, results versions."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiers import rest_slow

import peftbench
from peftbench.config import components, registry, schema, sections
from peftbench.config.many import Composer
from peftbench.config.schema import RunConfig
from peftbench.records import ids

RECORDED = Path(__file__).with_name("recorded_ids.json")
"""Command -> id, with a data and a draw hash that stand for all. Made by `python tests/records/test_identity.py`."""
ADAPTED = ("absa", "absa_all", "masakhaner task.lang=swa", "afrisenti task.lang=swa", "sib200 task.lang=swa",
           "file task.path=tickets.csv task.text=body task.label=queue",
           "hf task.path=ORG/NAME task.text=body task.label=queue", "jfleg",
           "sequence task.of=[demo_news]", "code_tests")  # fmt: skip
"""A task of every adapter that has keys of its own; masakhanews is among the others."""
METHODS = sorted(p.stem for p in (Path(schema.__file__).parents[1] / "conf" / "method").glob("*.yaml"))
FLOORS = ("majority", "tfidf_lr")
EACH_KIND = (*FLOORS, "frozen_lr", "lora", "dept", "pet", "list", "pcp", "kpt", "vera")
CONTENTS = {"model": "sha256:weights"}


@cache
def composer() -> Composer:
    return Composer()


@cache
def config(command: str) -> RunConfig:
    return composer().compose(command.split())


def commands() -> list[str]:
    """Those that were recorded."""
    return list(json.loads(RECORDED.read_text()))


def chosen() -> list[str]:
    """210 of them: every method on every kind of tiny backbone that it fits, and knobs of the other sections; every
    adapter with keys of its own."""
    whole = [m for m in METHODS if m not in ("file", "peft")]
    encoders = [f"method={m} model=tiny-bert task=demo_news shots={k}" for m in whole for k in (2, 5, 20)]
    causal = [f"method={m} model=tiny-gpt2 task=masakhanews task.lang=swa" for m in ("dept", "lora", "full", "bitfit")]
    knobs = ["seed=2", "data_seed=3", "trainer=debug", "trainer.steps=33", "trainer.precision=bf16", "shots=full",
             "trainer.batch_size=3", "protocol=sciprompt",
             "trainer.max_length=64", "model.pooling=cls"]  # fmt: skip
    more = [f"method={m} model=tiny-bert task=demo_news {k}" for m in ("full", "majority", "pet", "frozen_lr", "list",
            "lm_bff", "head_only") for k in knobs]  # fmt: skip
    searches = [f"method={m} model=tiny-bert search=tpe search.trials={n}" for m in ("lora", "pet") for n in (3, 4)]
    adapted = [f"method=lora model=tiny-bert task={task}" for task in ADAPTED]
    return [*searches, *causal, *more, *encoders][:200] + adapted


def basis(cfg: RunConfig) -> dict[str, Any]:
    return {"contents": CONTENTS if cfg.method.needs_model else {}, "versions": ids.versions(asdict(cfg))}


def name(cfg: RunConfig) -> str:
    return ids.run_id(asdict(cfg), "draw", "data", basis(cfg))


def names(of: Iterable[str] = ()) -> dict[str, str]:
    return {command: name(config(command)) for command in of or commands()}


@pytest.fixture
def fresh(monkeypatch):
    """What is remembered of dataclasses and components is forgotten before and after."""

    def forget() -> None:
        for known in (ids.neutral, ids._parts):
            known.cache_clear()

    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def test_ids_are_those_that_were_recorded():
    """A number that changed on purpose raises its component's `results_version`; then record anew."""
    recorded = json.loads(RECORDED.read_text())
    assert len(recorded) == 210
    assert names() == recorded


def test_every_adapter_with_keys_of_its_own_is_among_them():
    own = {n for n in registry.built_in("adapter") if sections.dataclass_of(f"task {n}") is not schema.TaskConfig}
    assert own == {config(command).task.adapter for command in commands()} - {"demo_news"}
    assert own == {sort.removeprefix("task ") for sort in ids.first_keys() if sort.startswith("task ")}


def with_knob(value: Any, kind: type, knob: Any) -> Any:
    """A section of a class that has one more key, standing at `knob`."""
    made = object.__new__(kind)
    made.__dict__.update({f.name: getattr(value, f.name, None) for f in dataclasses.fields(kind)}, a_new_knob=knob)
    return made


def test_a_new_knob_at_its_neutral_default_renames_nothing(fresh):
    """In every section at once; at another value it renames exactly the runs that use the section."""
    wider = cache(lambda kind: dataclasses.make_dataclass(
        kind.__name__, [("a_new_knob", int, dataclasses.field(default=7))], bases=(kind,)))  # fmt: skip
    before, known = names(), sections.dataclass_of
    fresh.setattr(sections, "dataclass_of", lambda sort: None if known(sort) is None else wider(known(sort)))
    ids.neutral.cache_clear()

    def widened(cfg: RunConfig, knob: int) -> RunConfig:
        def wide(section: Any) -> Any:
            return with_knob(section, wider(type(section)), knob)

        method = wide(cfg.method)
        own = [f.name for f in dataclasses.fields(cfg.method) if dataclasses.is_dataclass(getattr(cfg.method, f.name))]
        for section in own:
            setattr(method, section, wide(getattr(cfg.method, section)))
        parts = {key: wide(getattr(cfg, key)) for key in ("model", "task", "protocol", "trainer", "search")}
        return replace(cfg, method=method, **parts)

    assert {c: name(widened(config(c), 7)) for c in before} == before
    assert all(name(widened(config(c), 8)) != before[c] for c in before)


@pytest.mark.parametrize("method", FLOORS)
@pytest.mark.parametrize("knob", ["trainer.steps=33", "trainer=debug", "model=e5-small-q4", "trainer.clip=2"])
def test_what_a_floor_does_not_use_does_not_name_it(method, knob):
    assert name(config(f"method={method} {knob}")) == name(config(f"method={method}"))


def test_a_default_of_pet_changes_pet_alone(fresh):
    """Whether it stands in the YAML or in the dataclass: a key of 0.1.0 always counts where it is used."""
    from peftbench.stages.ensemble import PetOptions

    before = names()
    fresh.setattr(PetOptions.__dataclass_fields__["temperature"], "default", 3.0)
    after = {}
    for command in before:
        cfg = config(command)
        if hasattr(cfg.method, "pet"):
            method = replace(cfg.method, pet=replace(cfg.method.pet, temperature=3.0))
            cfg = replace(cfg, method=method)
        after[command] = name(cfg)
    changed = {command.split()[0] for command in before if before[command] != after[command]}
    assert changed == {"method=pet", "method=ipet"}


def test_a_release_renames_nothing(monkeypatch):
    before = name(config("method=lora"))
    monkeypatch.setattr(peftbench, "__version__", "9.9.9")
    assert name(config("method=lora")) == before


def test_a_results_version_renames_its_users_and_no_other(fresh):
    before = names()
    real, raised = registry.get, {("tuner", "lora"): 2, ("stage", "distillation"): 5}

    def raise_version(kind, which):
        declared = {(kind, which): replace(real(kind, which), results_version=raised[kind, which])}
        fresh.setattr(registry, "get", lambda k, n, key="": declared.get((k, n)) or real(k, n, key))

    raise_version("tuner", "lora")
    ids._parts.cache_clear()
    changed = {command for command, old in before.items() if name(config(command)) != old}
    assert changed == {command for command in before if config(command).method.needs_model
                       and config(command).method.tuner.name == "lora"} != set()  # fmt: skip
    raise_version("stage", "distillation")
    ids._parts.cache_clear()
    changed = {command.split()[0] for command, old in before.items() if name(config(command)) != old}
    assert {"method=pet", "method=ipet"} <= changed
    assert not changed & {"method=full", "method=majority", "method=lm_bff"}


DECIDE_NOTHING = {*ids.EXCLUDED, "plugins"}
CHOICES = (
    "method.needs_model", "search.name", "method.stages", "method.tuner.name", "method.formulation.name",
    "method.inference", "recipe",
)  # fmt: skip
"""Keys that choose other components altogether."""
UNUSED = {
    "untrained, without a network": ("model", "trainer", "method.tuner", "method.formulation", "method.lr",
                                    "method.constant_lr", "method.weight_decay", "method.budget", "method.init_from"),
    "untrained": ("trainer", "method.lr", "method.constant_lr", "method.weight_decay"),
}  # fmt: skip
"""Sections that decide no result of such methods; what is in `components.INPUT` does all the same."""
USED_IN_TRAINER = {key.partition(".")[2] for key in components.INPUT if key.startswith("trainer.")}


def other(value: Any) -> Any:
    """A value that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return {"another": 1} if isinstance(value, dict) else ["another"] if isinstance(value, list) else "another"


def leaves(section: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in section.items():
        if isinstance(value, dict) and value and key not in ("subsets", "arch", "hub", "label_words", "cloze", "space"):
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found


@pytest.mark.parametrize("method", rest_slow([m for m in METHODS if m not in ("file", "peft")], EACH_KIND))
def test_every_key_changes_the_id_or_is_known_to_decide_nothing(method):
    cfg = config(f"method={method} model=tiny-bert task=demo_news")
    plain = asdict(cfg)
    before = ids.run_id(plain, "draw", "data", basis(cfg))
    sort = "untrained, without a network" if not cfg.method.needs_model else "untrained"
    used = {key for stage in cfg.method.stages for key in registry.get("stage", stage).uses}
    unused = tuple(section for section in UNUSED[sort] if section not in used)
    wrong = []
    for key in leaves(plain):
        *parents, last = parts = key.split(".")
        changed = json.loads(json.dumps(plain))
        node = changed
        for parent in parents:
            node = node[parent]
        node[last] = other(node[last])
        if key in CHOICES:
            continue  # another choice of components altogether
        silent = key in DECIDE_NOTHING or parts[0] in ("search", *DECIDE_NOTHING) or parts[:2] == ["method", "space"]
        silent |= any(key == u or key.startswith(f"{u}.") for u in unused) and not (
            cfg.method.needs_model and last in USED_IN_TRAINER and parents == ["trainer"]
        )
        silent |= parents == ["model"] and last in ids.BY_CONTENT["model"]
        if (ids.run_id(changed, "draw", "data", basis(cfg)) == before) != silent:
            wrong.append(key)
    assert not wrong


@pytest.mark.parametrize(("method", "knob"), [
    ("majority", "trainer.batch_size=3"), ("tfidf_lr", "trainer.schedule=constant"),
    ("frozen_lr", "trainer.steps=5"), ("frozen_lr", "trainer.warmup=0.5"), ("frozen_lr", "trainer.dropout=0.5"),
])  # fmt: skip
def test_what_is_left_out_decides_nothing(method, knob, tmp_path):
    from peftbench.runner import run

    answers = []
    for number, more in enumerate(([], [knob])):
        out = tmp_path / str(number)
        settings = f"method={method} model=tiny-bert task=demo_news shots=2 trainer=debug tracking.wandb=disabled"
        record, _ = run(composer().compose([*settings.split(), f"out_dir={out}", *more]))
        assert record is not None
        answers.append((record.run_id, record.predictions["sha256"]))
    assert answers[0] == answers[1]


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(names(chosen()), indent=1) + "\n")
