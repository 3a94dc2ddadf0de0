"""The command line as a user meets it: help, lists, mistakes, and what it must not import."""

import json
import subprocess
import sys

import pytest

from peftbench.cli import main

HEAVY = ("torch", "transformers", "peft", "evaluate", "wandb", "datasets", "sklearn")


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code


@pytest.mark.parametrize(
    "args", [["--help"], ["ls"], ["ls", "methods", "--json"], ["--cfg", "job"], ["method=detp"], ["--version"]]
)
def test_light_commands_import_nothing_heavy(args):
    code = (
        "import sys\nfrom peftbench.cli import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit as e:\n    pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_help_names_every_choice_and_exit_code(capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    for word in ("dept", "masakhanews", "minilm", "lm_bff", "shots", "Exit codes", "leaderboard"):
        assert word in text


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("peftbench ")


def test_ls_json_is_machine_readable(capsys):
    assert call("ls", "methods", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"dept", "lora", "full", "majority"} <= {m["name"] for m in listed}
    assert call("ls", "tasks") == 0
    assert "masakhanews" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["method=detp"], ["method=detp", "Did you mean `dept`?"]),
        (["trainer.stpes=3"], ["trainer.stpes", "Did you mean `trainer.steps`?"]),
        (["shots=-1"], ["shots=-1"]),
        (["ls", "metods"], ["Did you mean `methods`?"]),
        (["leaderbord"], ["Did you mean `leaderboard`?"]),
        (["-m", "method=lora,detp"], ["Did you mean `dept`?"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*args) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_config_and_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("--cfg", "job", "method=lora") == 0
    assert "name: lora" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
