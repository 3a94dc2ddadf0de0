"""What the record says about the machine and the code, and what it must not say."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import peftbench
from peftbench.measure import environment as environment_module
from peftbench.measure.environment import code_version, environment


def test_facts() -> None:
    dist = SimpleNamespace(device=torch.device("cpu"), world=2)
    facts = environment(dist, "bf16")  # type: ignore[arg-type]
    assert (facts["device"], facts["n_devices"], facts["precision"], facts["gpu"]) == ("cpu", 2, "bf16", None)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["peftbench"] == peftbench.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["cores"] >= 1
    assert facts["cpu"]


def test_a_run_without_a_backbone() -> None:
    facts = environment()
    assert (facts["device"], facts["n_devices"], facts["threads"]) == ("cpu", 1, None)


def test_no_names_of_users_hosts_or_places() -> None:
    text = json.dumps(environment())
    for private in (socket.gethostname(), getpass.getuser(), str(Path.home()), os.getcwd()):
        words = text.replace('"', " ").replace(",", " ").split()
        assert private not in words, private
    assert str(Path.home()) not in text.replace("/usr", "") or str(Path.home()) == "/"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout that peftbench seems to be imported from."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "src" / "peftbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(environment_module, "PACKAGE", package)
    return tmp_path


def git(root: Path, *command: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    return subprocess.run(
        ["git", "-C", root, *who, *command], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_git_state(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_version() == {"git_sha": None, "dirty": None}
    git(checkout, "init", "-q")
    assert code_version() == {"git_sha": None, "dirty": None}  # no commit yet
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    sha = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a git hook
    assert code_version() == {"git_sha": sha, "dirty": False}
    (checkout / "notes.txt").write_text("not code")
    assert code_version()["dirty"] is False
    (checkout / "src" / "peftbench" / "new.py").write_text("code")
    assert code_version() == {"git_sha": sha, "dirty": True}
    monkeypatch.setenv("PATH", "")
    assert code_version() == {"git_sha": None, "dirty": None}  # no git


def test_an_installed_package_inside_someone_elses_repository(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / ".venv" / "lib" / "site-packages" / "peftbench"
    installed.mkdir(parents=True)
    git(checkout, "init", "-q")
    monkeypatch.setattr(environment_module, "PACKAGE", installed)
    assert code_version() == {"git_sha": None, "dirty": None}
