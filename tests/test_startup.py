"""What a command imports: as much as its run uses. Budgets are modules, not seconds: those hold on any machine."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import pytest

TORCH = ("torch", "transformers", "peft", "accelerate")
SCORES = ("sklearn", "scipy.stats", "pandas", "evaluate", "datasets")
NEVER = ("wandb", "matplotlib", "optuna")
NETWORK = ("model=tiny-bert", "trainer=debug")
ASKS = """
import sys
from peftbench.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
print("IMPORTED", *sorted(sys.modules))
"""


def imported(folder, *words: str) -> set[str]:
    """The modules in a process that did this run."""
    command = [sys.executable, "-c", ASKS, *words, "task=demo_news", "shots=2", "protocol.dev_per_class=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith("IMPORTED ")
    return set(last.split()[1:])


@pytest.mark.parametrize(
    ("words", "absent", "most"),
    [
        pytest.param(["method=majority"], (*TORCH, *SCORES, "scipy"), 800, id="a constant answer"),
        pytest.param(["method=tfidf_lr"], TORCH, None, id="TF-IDF"),
        pytest.param(["method=bitfit", *NETWORK], ("peft", *SCORES), None, id="a tuner of ours"),
        pytest.param(["method=lora", *NETWORK], SCORES, None, id="a tuner of peft's", marks=pytest.mark.slow),
        pytest.param(["method=dept", *NETWORK], SCORES, None, id="a tuner that peft hosts", marks=pytest.mark.slow),
    ],
)
def test_a_run_imports_what_it_uses(tmp_path, words, absent, most):
    found = imported(tmp_path, *words, "tracking.wandb=disabled")
    assert not found & {*absent, *NEVER}
    assert most is None or len(found) <= most, f"{len(found)} modules"
    assert (tmp_path / "results" / "leaderboard.csv").is_file()  # it was a run, not a message


def test_tracking_that_the_environment_switches_off_is_not_imported(monkeypatch):
    from made_up_configs import compose

    from peftbench.session import needed_modules
    from peftbench.tasks import load_task

    cfg = compose(["method=majority", "task=demo_news", "tracking.wandb=auto"])
    data = load_task(cfg.task, None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "wandb" not in needed_modules(cfg, data)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "wandb" in needed_modules(cfg, data)


def test_what_a_score_takes_is_imported_with_the_rest():
    """Its seconds are the import's, not the evaluation's."""
    from dataclasses import replace

    from made_up_configs import compose

    from peftbench.session import needed_modules
    from peftbench.tasks import load_task

    cfg = compose(["method=majority", "task=demo_news"])
    data = load_task(cfg.task, None)
    assert "scipy.stats" not in needed_modules(cfg, data)
    assert "scipy.stats" in needed_modules(cfg, replace(data, problem="regression"))


def test_nothing_is_collected_while_a_library_comes_in():
    import gc

    from peftbench.imports import importing

    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    with suppress(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen  # nothing came in


def test_only_a_process_of_ours_is_frozen():
    code = (
        "import gc, sys\nfrom peftbench import imports\n"
        "{}imports.LIBRARY = 0\nwith imports.importing():\n    import xml.dom.minidom\n"
        "print(gc.get_freeze_count() > 0, gc.isenabled())"
    )
    for first, wanted in (("", "False True"), ("imports.process_is_ours()\n", "True True")):
        done = subprocess.run([sys.executable, "-c", code.format(first)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == wanted
