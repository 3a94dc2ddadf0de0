"""The worked examples under `examples/extending` run, and what they come from stands in the record."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from peftbench.config import compose, registry
from peftbench.config.command import overrides_of
from peftbench.errors import UsageError
from peftbench.runner import run

ROOT = Path(__file__).parents[2]
EXAMPLES = "examples/extending"
FAST = ["model=tiny-bert", "task=weather", "shots=2", "trainer=debug", "tracking.wandb=disabled", "trainer.device=cpu"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PEFTBENCH_CONF", "examples/extending/conf")


@pytest.mark.parametrize(
    ("method", "plugins", "stages"),
    [("positions", 2, ["supervised"]), ("curriculum", 2, ["shorter_first", "supervised"])],
)
def test_an_example_runs(method: str, plugins: int, stages: list[str], tmp_path: Path) -> None:
    record, _ = run(compose([*FAST, f"method={method}", f"out_dir={tmp_path}"]))
    assert record is not None
    assert record.status == "done", record.reason
    assert [stage["name"] for stage in record.stages] == stages
    assert len(record.config["plugins"]) == plugins
    assert all(origin.startswith("sha256:") for origin in record.config["plugins"].values())


def test_a_trick_is_one_file(tmp_path: Path) -> None:
    args = [*FAST, "method=lora", "trainer.probe=false", f"out_dir={tmp_path}"]
    record, _ = run(compose([*args, "+method/trick=confidence_penalty"]))
    assert record is not None
    assert record.status == "done", record.reason
    assert record.config["method"]["trick"]["confidence_penalty"]["beta"] == 0.1
    assert any(name.startswith("trick ") for name in record.config["plugins"])
    with pytest.raises(UsageError, match=r"method\.trick\.confidence_penalty\.beta=-1(\.0)?: must be at least 0"):
        compose([*args, "+method/trick=confidence_penalty", "method.trick.confidence_penalty.beta=-1"])


def test_options_of_a_tuner_are_checked_by_its_own_dataclass(tmp_path: Path) -> None:
    from peftbench.tuners import build_tuner

    tuner = build_tuner(compose([*FAST, "method=positions", "method.tuner.options.tables=2"]).method.tuner)
    assert (tuner.cfg.name, tuner.cfg.tables) == ("positions_tuner", 2)
    with pytest.raises(UsageError, match=r"method\.tuner\.options\.tables=0: must be at least 1"):
        build_tuner(compose([*FAST, "method=positions", "method.tuner.options.tables=0"]).method.tuner)


def test_an_object_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="is no tuner: a `Tuner` is wanted"):
        registry.get("tuner", "examples/extending/positions_tuner.py:PositionsOptions")


def test_a_metric_is_one_file_named_in_the_command() -> None:
    from peftbench.tasks import load_task
    from peftbench.tasks.metrics import score

    own = "task.metrics=[accuracy,examples/extending/worst_recall.py:worst_recall]"
    data = load_task(compose([*FAST, own, "task.main_metric=worst_recall"]).task, None)
    rows = [row for row in data.test if row.target == "wet"][:2] + [row for row in data.test if row.target == "dry"][:1]
    found = score(data, rows, ["wet", None, "dry"])
    assert (data.main_metric, found["worst_recall"]) == ("worst_recall", 50)


def test_a_table_is_one_file(tmp_path: Path) -> None:
    from peftbench.records.store import Store
    from peftbench.tables import spec
    from peftbench.tables.table import make_table

    table = make_table("weather", spec.load("weather"), Store(tmp_path))
    assert table.grid("") == (["majority", "LoRA"], ["2 shots", "4 shots"])
    assert sum(cell.asked for cell in table.cells.values()) == 8


def test_a_launcher_is_one_file_that_hydra_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    from hydra._internal.core_plugins.basic_launcher import BasicLauncher
    from hydra.core.config_store import ConfigStore

    monkeypatch.syspath_prepend(str(ROOT / "examples/extending"))
    monkeypatch.setattr(BasicLauncher, "launch", lambda self, jobs, first: [f"did {job}" for job in jobs])
    made = import_module("hydra_plugins.last_first_launcher").LastFirstLauncher()
    assert made.launch(["a", "b"], 0) == ["did a", "did b"]
    stored = ConfigStore.instance().load("hydra/launcher/last_first.yaml")
    assert stored.node["_target_"] == "hydra_plugins.last_first_launcher.LastFirstLauncher"


@pytest.mark.parametrize(
    "given",
    [
        ["method=lora", f"method.stages=[{EXAMPLES}/shorter_first.py,supervised]"],
        ["method=lora", f"+method.trick.sure.name={EXAMPLES}/confidence_penalty.py", "+method.trick.sure.beta=0.3"],
        ["method=tfidf_lr", f"task.main_metric={EXAMPLES}/worst_recall.py"],
    ],
)
def test_a_config_with_a_file_gives_back_its_command(given):
    config = asdict(compose(given))
    assert config["plugins"]
    assert overrides_of(config) == given
