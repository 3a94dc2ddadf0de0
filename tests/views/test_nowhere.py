"""Every view says alike that the folder of results is not there: none takes it for one that has no runs yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from peftbench.errors import UsageError
from peftbench.figures.board.command import board_command
from peftbench.figures.command import plot_command
from peftbench.figures.report.command import report_command
from peftbench.reproduce.command import reproduce_command
from peftbench.views.compare.command import compare_command
from peftbench.views.diff import diff_command
from peftbench.views.leaderboard_command import leaderboard_command
from peftbench.views.pack_command import pack_command

Command = Callable[[Sequence[str]], int]


@pytest.mark.parametrize("folder", [["--out-dir", "resluts"], ["out_dir=resluts"]])
@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (leaderboard_command, []),
        (report_command, []),
        (compare_command, ["lora", "dept"]),
        (plot_command, ["shots"]),
        (board_command, ["board"]),
        (pack_command, ["--to", "packed"]),
        (diff_command, ["a", "b"]),
        (reproduce_command, ["a"]),
    ],
)
def test_a_folder_that_is_not_there(
    command: Command, argv: list[str], folder: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "records").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"^out_dir=resluts: no runs here, .*Did you mean `results`"):
        command([*argv, *folder])
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_without_a_folder_near_by_the_first_run_is_the_way(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"A first one: peftbench method=head_only shots=10\. .*out_dir=FOLDER"):
        leaderboard_command(["--out-dir", str(tmp_path / "results")])
