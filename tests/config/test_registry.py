"""One registry for everything that has a name: built-ins, files, installed modules, entry points."""

from __future__ import annotations

import ast
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import peftbench
from peftbench.config import compose, registry
from peftbench.config.components import components
from peftbench.errors import UsageError

ROOT = Path(peftbench.__file__).parent

STAGE = """
from dataclasses import dataclass
from peftbench.stages.base import Stage, StageReport


@dataclass
class NapOptions:
    minutes: int = 5


def nap(context, incoming):
    context.reports.append(StageReport("nap"))
    return incoming


STAGE = Stage(nap, options=NapOptions, section="nap", uses=("trainer.steps",), results_version=3)
"""


@pytest.fixture
def nap(tmp_path: Path) -> Path:
    path = tmp_path / "nap.py"
    path.write_text(STAGE)
    return path


def test_every_built_in_stage_is_found_without_torch() -> None:
    expected = {"calibration", "classical", "ensemble", "distillation", "none", "self_training", "supervised"}
    assert {*registry.names("stage")} == expected | {
        "continued_pretraining",
        "contrastive",
        "logistic_head",
        "prompt_search",
        "reinforcement",
        "remote",
        "language_adapters",
        "recipe",
        "replay",
        "sequence",
        "task_adapter",
        "setfit_library",
    }
    for name in registry.names("stage"):
        assert registry.get("stage", name).run


def test_a_stage_in_a_file_has_options_and_a_hash(nap: Path) -> None:
    chosen = ["method=lora", f"method.stages=[supervised,{nap}]"]
    cfg = compose([*chosen, "+method.nap.minutes=7"])
    assert cfg.method.options("nap").minutes == 7
    part = components(cfg)[-1]
    assert (part.kind, part.name, part.results_version) == ("stage", str(nap), 3)
    assert part.uses == ("method.nap", "trainer.steps")
    assert cfg.plugins == {f"stage {nap}": part.origin}
    nap.write_text(STAGE + "\n")
    assert compose(chosen).plugins != cfg.plugins


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("supervized", ["`supervized` is no stage", "`supervised`"]),
        ("no_such_file.py", ["no_such_file.py", "no such file"]),
        ("json:loads", ["json:loads", "is no stage", "`Stage` is wanted"]),
        ("json:nothing", ["has no `nothing`"]),
        ("no_such_module:x", ["no_such_module"]),
    ],
)
def test_what_is_no_stage_is_said(name: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        compose(["method=lora", f"method.stages=[{name}]"])
    assert all(word in str(error.value) for word in words), error.value


def test_an_entry_point_is_known_by_name_and_version(
    nap: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "naps-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: naps\nVersion: 1.2\n")
    (folder / "entry_points.txt").write_text("[peftbench.stages]\nnap = nap:STAGE\n")
    registry._entry_points.cache_clear()
    try:
        assert "nap" in registry.names("stage")
        cfg = compose(["method=lora", "method.stages=[nap]"])
        assert cfg.plugins == {"stage nap": "naps 1.2"}
        assert cfg.method.options("nap").minutes == 5
    finally:
        registry._entry_points.cache_clear()
        sys.modules.pop("nap", None)


def test_a_floor_uses_nothing_of_the_trainer_and_no_model() -> None:
    parts = components(compose(["method=majority"]))
    assert {part.kind for part in parts} == {"adapter", "metric", "protocol", "stage"}
    assert not [key for part in parts for key in part.uses if key.startswith(("trainer", "model"))]
    assert components(compose(["method=lora"]))[-1].uses[0] == "trainer"


def test_options_of_a_stage_that_the_method_does_not_have_are_refused() -> None:
    with pytest.raises(UsageError, match=r"method\.pet\.temperature: only the stage `distillation` has it"):
        compose(["method=lora", "+method.pet.temperature=3"])
    assert not hasattr(compose(["method=list", "method.stages=[supervised]"]).method, "self_training")


def test_what_gives_other_numbers_than_before_has_another_version():
    """LiST's start and its one course, Compacter's start, the cloze formulation's separators, PCP's AdamW."""
    versions = {(p.kind, p.name): p.results_version for p in components(compose(["method=list", "model=tiny-bert"]))}
    assert versions["tuner", "lite"] == versions["formulation", "cloze"] == versions["stage", "self_training"] == 2
    assert versions["stage", "supervised"] == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["model=tiny-t5", "task=glue", "task.subset=sst2"], ("generate", 2)),
        (["model=tiny-t5", "task=glue", "task.subset=sst2", "shots=0"], ("score", 2)),
        (["model=tiny-bert", "task=glue", "task.subset=sst2"], ("head", 1)),
        (["model=tiny-bert", "task=glue", "task.subset=stsb"], ("head", 2)),
    ],
)
def test_auto_is_the_formulation_that_it_stands_for_with_the_version_of_its_targets(words, part):
    """A head's scores were clamped once, its classes are what they were; texts to texts were cut at their ends."""
    cfg = compose(["method=lora", *words])
    (found,) = (p for p in components(cfg) if p.kind == "formulation")
    assert (found.name, found.results_version) == part
    assert [found] == [p for p in components(asdict(cfg)) if p.kind == "formulation"]


def test_the_formulations_are_declared_without_torch_and_found_by_name() -> None:
    from peftbench.formulations.declared import Declared, declaration

    assert {*registry.names("formulation")} >= {
        "auto",
        "cloze",
        "edit_spans",
        "mask_predict",
        "features",
        "generate",
        "head",
        "score",
        "tags",
    }
    assert all(isinstance(declaration(name), Declared) for name in registry.names("formulation"))
    with pytest.raises(UsageError, match=r"`claze` is no formulation\. Did you mean `cloze`"):
        compose(["method=lora", "method.formulation.name=claze"])


@pytest.mark.parametrize(
    ("family", "changes", "name"),
    [
        ("encoder", {}, "ClozeFormulation"),
        ("encoder", {"demonstrations": 2}, "DemonstratedCloze"),
        ("encoder", {"soft_pattern": True}, "SoftPatternCloze"),
        ("seq2seq", {}, "SentinelCloze"),
    ],
)
def test_cloze_chooses_its_own_variant(family: str, changes: dict, name: str) -> None:
    from peftbench.formulations.cloze import ClozeConfig, variant

    assert variant(ClozeConfig("cloze", **changes), family, "classification").endswith(f":{name}")


ADAPTER = """
from dataclasses import dataclass
from peftbench.config.schema import TaskConfig, number
from peftbench.config.tasks import adapter, text


@dataclass
class Days(TaskConfig):
    days: int = number(3, ge=1)


@adapter(config=Days, subset={"season": text})
def load(cfg, data_dir):
    raise NotImplementedError
"""


def test_an_adapter_declares_its_own_keys(tmp_path: Path) -> None:
    path = tmp_path / "weather.py"
    path.write_text(ADAPTER)
    chosen = f"task.adapter={path}"
    assert compose([chosen, "task.days=5"]).task.days == 5
    with pytest.raises(UsageError, match=r"task\.days=0: must be at least 1"):
        compose([chosen, "task.days=0"])
    with pytest.raises(UsageError, match=r"task\.subsets\.eng\.seasno: no such key. Did you mean `season`"):
        compose([chosen, "task.subsets.eng.seasno=dry"])
    assert "masakhanews" in registry.names("adapter")


def test_a_main_metric_given_with_the_command_wins_over_the_subsets_own() -> None:
    from peftbench.config.many import Composer
    from peftbench.tasks.sources import main_metric_of

    for make in (compose, Composer().compose):
        for given, wanted in (([], "pearson"), (["task.main_metric=spearman"], "spearman")):
            task = make(["task=glue", "task.subset=stsb", *given]).task
            assert main_metric_of(task, task.subsets["stsb"]) == wanted
            assert not hasattr(task, "main_metric_chosen")


TUNER = """
from dataclasses import dataclass
from torch import nn
from peftbench.config.schema import TunerConfig, number
from peftbench.tuners import TunerDeclaration
from peftbench.tuners.plain import FullTuner


@dataclass
class AllOptions(TunerConfig):
    share: float = number(0.5, ge=0, le=1)


class All(FullTuner):
    pass


TUNER = TunerDeclaration(All, options=AllOptions)
"""


def test_a_tuner_in_a_file_may_declare_itself_like_a_built_in_one(tmp_path: Path) -> None:
    from peftbench.tuners import build_tuner

    path = tmp_path / "all.py"
    path.write_text(TUNER)
    chosen = ["method=full", f"method.tuner.name={path}"]
    assert build_tuner(compose([*chosen, "+method.tuner.options.share=0.2"]).method.tuner).cfg.share == 0.2
    with pytest.raises(UsageError, match=r"method\.tuner\.options\.share=2"):
        build_tuner(compose([*chosen, "+method.tuner.options.share=2"]).method.tuner)


DECLARED = ("stage", "tuner", "formulation")


def imported_at_once(path: Path) -> set[str]:
    """What importing a file imports: the modules named in its body, outside functions and `if TYPE_CHECKING`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_what_declares_a_built_in_imports_nothing_heavy() -> None:
    modules = {f"{registry.KINDS[kind].room}.{name}" for kind in DECLARED for name in registry.built_in(kind)}
    seen: set[str] = set()
    while modules:
        module = modules.pop()
        seen.add(module)
        for parent in (module, *(module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1))):
            place = ROOT.joinpath(*parent.split(".")[1:])
            path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            if path.is_file():
                modules |= {name for name in imported_at_once(path) if name not in seen}
    assert "peftbench.tuners.base" in seen
    assert not {name.split(".")[0] for name in seen} & {"torch", "peft", "transformers", "sklearn"}


DECLARED_TUNER = """
from peftbench.tuners.base import TunerDeclaration

TUNER = TunerDeclaration(build="no_such_module:Mine", results_version=4, uses=("trainer.max_length", "trainer.dropout"))
"""


def test_what_a_tuner_from_outside_declares_is_read(tmp_path: Path) -> None:
    """Without its code being imported, which brings torch along; a bare subclass in a file is not run at all."""
    mine, bare = tmp_path / "mine.py", tmp_path / "bare.py"
    mine.write_text(DECLARED_TUNER)
    bare.write_text("raise SystemExit('was run')\n")
    parts = {}
    for path in (mine, bare):
        cfg = compose(["method=full", f"method.tuner.name={path}"])
        parts[path] = next(part for part in components(cfg) if part.kind == "tuner")
    assert parts[mine].results_version == 4
    assert {"trainer.max_length", "trainer.dropout", "method.tuner"} <= {*parts[mine].uses}
    assert parts[bare].results_version == 1
    assert all(part.origin.startswith("sha256:") for part in parts.values())
