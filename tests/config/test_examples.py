"""The worked examples under `examples/extending` run, and what they come from stands in the record."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.config import compose, registry
from peftbench.errors import UsageError
from peftbench.runner import run

ROOT = Path(__file__).parents[2]
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


def test_options_of_a_tuner_are_checked_by_its_own_dataclass(tmp_path: Path) -> None:
    from peftbench.tuners import build_tuner

    tuner = build_tuner(compose([*FAST, "method=positions", "method.tuner.options.tables=2"]).method.tuner)
    assert (tuner.cfg.name, tuner.cfg.tables) == ("positions_tuner", 2)
    with pytest.raises(UsageError, match=r"method\.tuner\.options\.tables=0: must be at least 1"):
        build_tuner(compose([*FAST, "method=positions", "method.tuner.options.tables=0"]).method.tuner)


def test_an_object_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="is no tuner: a `Tuner` is wanted"):
        registry.get("tuner", "examples/extending/positions_tuner.py:PositionsOptions")
