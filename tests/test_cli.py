"""The command line as a user meets it: help, lists, mistakes, and what it must not import."""

import json
import subprocess
import sys

import pytest

from peftbench.cli import main
from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.inputs import InputCache

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


def test_bare_is_one_screen_of_help(capsys):
    assert call() == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 24
    assert "peftbench demo" in text


def test_demo_is_the_packaged_run(monkeypatch):
    seen = []
    monkeypatch.setattr("peftbench.cli.run_one", lambda cfg: seen.append(cfg) or 0)
    assert call("demo", "seed=3", "--out-dir", "a b") == 0
    assert (seen[0].task.name, seen[0].seed, seen[0].out_dir) == ("demo_news", 3, "a b")
    assert (seen[0].trainer.name, seen[0].trainer.steps, seen[0].trainer.batch_size) == ("demo", 50, 8)
    assert call("demo", "trainer=fewshot") == 0
    assert seen[1].trainer.steps == 160


def test_a_fault_of_ours_is_one_line_and_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def broken(cfg):
        raise RuntimeError("bad\nworse")

    monkeypatch.setattr("peftbench.cli.run_one", broken)
    assert call("method=majority") == 1
    said = capsys.readouterr().err
    assert said.startswith("peftbench: a fault of peftbench's: RuntimeError: bad (traceback: ")
    assert "worse" in next(tmp_path.iterdir()).read_text()


def test_lists_are_a_line_an_entry_when_piped(capsys, tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("name: mine\ndescription: My own\n")
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    assert call("ls", "tasks") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mine\tMy own") for line in lines)
    assert call("ls", "methods", "lora") == 0
    shown = capsys.readouterr().out
    for words in ("arXiv 2106.09685", "method.lr.lora", "encoder", "rank: 8 ", "trainable numbers grow"):
        assert words in shown


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
        (["lora"], ["Did you mean `method=lora`?"]),
        (["method=lora,dept"], ["a list is a sweep: put -m in front"]),
        (["out_dir=/x/a,b"], ["quotes within quotes: \"out_dir='/x/a,b'\""]),
        (["method.tuner=lora"], ["method/tuner=lora"]),
        (["seed=range(5,1)"], ["put -m in front"]),
        (["-m", "seed=range(5,1)"], ["seed=range(5,1): has no value"]),
        (["trainer.lr="], ["trainer.lr: no such key"]),
        (["="], ["cannot be read as key=value"]),
        (["method=" + "x" * 5000], ["too long"]),
        (["out_dir=\udcff"], ["not UTF-8"]),
        (["hydra.callbacks.x=1"], ["no key of peftbench's"]),
        (["\n"], ["\\n: no such command"]),
        (["=\n"], ["=\\n: cannot be read as key=value"]),
        (["--shots", f"x={'x' * 5000}"], ["x... (5009 characters)"]),
        (["leaderboard", "--out-dir", "x" * 300], ["ile name too long"]),
        (["check-task", f"{'x' * 300}.yaml"], ["ile name too long"]),
        (["model=local", f"model.path={'x' * 300}", "method=lora"], ["file name too long"]),
        (["ls", "methods", "lra"], ["Did you mean `lora`?"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*args) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 1200
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_config_and_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("--cfg", "job", "method=lora") == 0
    assert "name: lora" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_every_line_of_a_message_is_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    words = ["method=majority", "task=sciprompt", "task.subset=arxiv", f"data_dir={tmp_path / 'data'}"]
    with pytest.raises(UsageError) as caught:
        InputCache().load(compose(words))
    lines = str(caught.value).splitlines()
    assert len(lines) > 1
    for command in (words, ["-m", *words, "seed=1,2"], ["plan", *words]):
        assert call(*command) == 2
        told = "".join(capsys.readouterr())
        assert all(line in told for line in lines), command


INTERRUPTED = """
import threading, time
from peftbench import cli
def dispatch(args):
    threading.Thread(target=time.sleep, args=(3600,)).start()
    raise KeyboardInterrupt
cli.dispatch = dispatch
cli.main(["demo"])
"""


def test_an_interrupted_command_does_not_wait_for_a_librarys_threads():
    process = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=600)
    assert process.returncode == 130
    assert process.stderr == "peftbench: interrupted; what was finished is kept, the same command goes on.\n"
