"""The shell offers commands, their options and, by Hydra, keys."""

from peftbench.cli import COMMANDS, TAKE_SETTINGS, dispatch
from peftbench.completion import own_choices


def offered(line: str):
    return own_choices(line, COMMANDS, TAKE_SETTINGS, dispatch)


def test_commands_options_and_keys():
    assert offered("peftbench le") == (["leaderboard"], "peftbench le")
    assert set(COMMANDS) <= set(offered("peftbench ")[0])
    options, rest = offered("peftbench status --")
    assert {"--watch", "--json", "--out-dir"} <= set(options)
    assert rest is None
    assert offered("peftbench plan method=lora trai") == ([], "peftbench method=lora trai")
    assert offered("peftbench plan --a")[0] == ["--all"]
    assert offered("peftbench method=lora trai") == ([], "peftbench method=lora trai")


def test_hydra_adds_dotted_keys(monkeypatch, capsys):
    import pytest

    from peftbench.cli import main

    monkeypatch.setenv("COMP_LINE", "peftbench plan trainer.st")
    with pytest.raises(SystemExit):
        main(["-sc", "query=bash"])
    assert "trainer.steps=" in capsys.readouterr().out
