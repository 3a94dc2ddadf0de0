"""`peftbench cp`: a packaged file becomes one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.config import compose
from peftbench.config.copy_command import cp, renamed
from peftbench.errors import UsageError


def test_a_copy_works_by_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    assert cp(["method", "lora", "my_lora"]) == 0
    path = tmp_path / "method" / "my_lora.yaml"
    assert f"{path}: edit it, then `peftbench method=my_lora`" in capsys.readouterr().out
    path.write_text(path.read_text().replace("lora: 1.0e-3 ", "lora: 2.5e-3 "))
    mine, theirs = compose(["method=my_lora"]).method, compose(["method=lora"]).method
    assert (mine.name, mine.lr["lora"], theirs.lr["lora"]) == ("my_lora", 2.5e-3, 1.0e-3)
    assert mine.tuner == theirs.tuner
    with pytest.raises(UsageError, match="is there already"):
        cp(["method", "lora", "my_lora"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["methd", "lora", "x"], "Did you mean `method`"),
        (["method", "lorra", "x"], "Did you mean `lora`"),
        (["method", "lora", "dept"], "is packaged"),
        (["method", "lora", "../x"], "letters, digits"),
    ],
)
def test_what_cannot_be_copied_is_said(
    args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    with pytest.raises(UsageError, match=words):
        cp(args)
    assert not list(tmp_path.iterdir())


def test_only_the_name_changes() -> None:
    text = "# peftbench method=lora task=x method=lora_plus\nname: lora\nlr:\n  lora: 1\n"
    assert renamed(text, "method", "lora", "my") == (
        "# peftbench method=my task=x method=lora_plus\nname: my\nlr:\n  lora: 1\n"
    )
