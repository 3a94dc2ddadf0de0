"""`import peftbench`: the same runs as on the command line, exceptions, and a host that is left as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import peftbench
from peftbench.cli import main
from peftbench.config.hydra_source import HYDRA_DEFAULTS

FLOOR = ["task=demo_news", "tracking.wandb=disabled"]


def test_importing_costs_nothing_and_names_win_over_modules() -> None:
    code = """if True:
        import sys
        before = set(sys.modules)
        import peftbench
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        peftbench.run, peftbench.load_run, peftbench.UsageError, peftbench.records
        heavy = {"torch", "transformers", "peft", "pandas", "sklearn", "hydra", "wandb"} & set(sys.modules)
        assert not heavy, heavy
        import peftbench.records.store, peftbench.runner, peftbench.api
        assert callable(peftbench.run) and callable(peftbench.records) and callable(peftbench.predict)
        assert set(peftbench.__all__) <= set(dir(peftbench))
        try:
            peftbench.nonsense
        except AttributeError:
            print(*sorted(loaded - set(sys.stdlib_module_names)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["peftbench"]


def test_runs_have_the_names_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = peftbench.run(f"out_dir={tmp_path}", *FLOOR, method="majority", shots=2)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit):
        main([f"out_dir={tmp_path}", *FLOOR, "method=majority", "shots=2"])
    assert [record.stem for record in (tmp_path / "records").iterdir()] == [run.run_id]
    assert "nothing was trained" in capsys.readouterr().out
    assert run.score == run.record.score


def test_a_sweep_and_its_table(tmp_path: Path) -> None:
    choices = {"method": ["majority", "tfidf_lr"], "shots": [1, 2]}
    runs = peftbench.sweep(choices, f"out_dir={tmp_path}", *FLOOR)
    assert [(r.record.method, r.record.shots) for r in runs] == [
        ("majority", 1), ("majority", 2), ("tfidf_lr", 1), ("tfidf_lr", 2),
    ]  # fmt: skip
    table = peftbench.records(tmp_path)
    assert sorted(table["run_id"]) == sorted(run.run_id for run in runs)
    assert list(runs.frame()["score"]) == [run.score for run in runs]
    with pytest.raises(peftbench.UsageError, match="shots=10000"):
        peftbench.sweep({"shots": [3, 10000]}, f"out_dir={tmp_path}", *FLOOR, "method=majority")
    assert len(peftbench.records(tmp_path)) == 4  # nothing of it was begun


def test_mistakes_and_failures_are_exceptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(peftbench.UsageError, match="Did you mean `majority`"):
        peftbench.run(*FLOOR, method="majorty")

    def broken(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("peftbench.stages.classical.floors.ClassicalPredictor.fit", broken)
    with pytest.raises(peftbench.RunFailed, match="on purpose") as caught:
        peftbench.run(f"out_dir={tmp_path}", *FLOOR, method="majority", shots=2)
    assert caught.value.record.status == "failed"


def test_a_host_application_of_hydra_keeps_its_state(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "host.yaml").write_text("answer: 42\n")
    argv = list(sys.argv)
    with initialize_config_dir(str(tmp_path / "conf"), **HYDRA_DEFAULTS):
        outer = GlobalHydra.instance().hydra
        peftbench.run(f"out_dir={tmp_path}", *FLOOR, method="majority", shots=2)
        with pytest.raises(peftbench.UsageError):
            peftbench.run("nonsense=1")
        assert GlobalHydra.instance().hydra is outer
        assert hydra_compose("host")["answer"] == 42
    assert sys.argv == argv


@pytest.mark.slow
def test_the_page_about_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks of code, one after the other, in an empty folder."""
    page = Path(__file__).parents[1] / "docs" / "python.md"
    blocks = page.read_text(encoding="utf-8").split("```python\n")[1:]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block.partition("```")[0], str(page), "exec"), names)
