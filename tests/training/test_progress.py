"""An evaluation shows how far it is: a bar on a terminal, a line now and then elsewhere, nothing under another bar."""

import io

from rich.console import Console

from peftbench.training import progress


def test_a_long_evaluation_says_a_line_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = progress.EvaluationLines(4)
    for done in (1, 2, 3):
        shown.batch(done)
    assert capsys.readouterr().err == "eval 2/4 batches  20 s left\n"


def test_a_bar_is_gone_afterwards_and_never_inside_another(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=80))
    with progress.evaluation_reporter(True, 2) as shown:
        shown.batch(2)
    assert "eval" in screen.getvalue()
    assert type(progress.evaluation_reporter(False, 2)) is progress.Silent
    with progress.reporter(True, 3, 0):
        assert type(progress.evaluation_reporter(True, 2)) is progress.Silent
    assert isinstance(progress.evaluation_reporter(True, 2), progress.EvaluationBar)
