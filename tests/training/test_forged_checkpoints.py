"""A checkpoint whose bytes are whole and whose content is nonsense: the training begins anew, with a warning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loop import Stop, interrupted, same_state  # the same toy training

from peftbench.training import checkpoint


def forge(folder: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """Change every checkpoint in the folder and make its checksums fit."""
    for path in folder.glob("checkpoint-*"):
        state = json.loads((path / checkpoint.STATE).read_text())
        tensors = load_file(path / checkpoint.TENSORS)
        change(state, tensors)
        (path / checkpoint.STATE).write_text(json.dumps(state))
        save_file(tensors, path / checkpoint.TENSORS)
        sums = {n: hashlib.sha256((path / n).read_bytes()).hexdigest() for n in (checkpoint.TENSORS, checkpoint.STATE)}
        (path / checkpoint.SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def drop(prefix: str) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        del tensors[next(name for name in tensors if name.startswith(prefix))]

    return change


FORGERIES: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]] = {
    "no fingerprint": lambda state, tensors: state.pop("fingerprint"),
    "a fingerprint that is none": lambda state, tensors: state.update(fingerprint="x"),
    "a number for the progress": lambda state, tensors: state.update(progress=5),
    "text for a step": lambda state, tensors: state["progress"].update(step="7"),
    "a key of a later version": lambda state, tensors: state["progress"].update(phase=1),
    "no clock": lambda state, tensors: state["attempt"].pop("clock"),
    "NaN seconds": lambda state, tensors: state["attempt"]["clock"].update(wall={"train": float("nan")}),
    "a tensor too few": drop("learner/"),
    "a best tensor too few": drop("best/"),
    "a tensor of another shape": lambda state, tensors: tensors.update({next(iter(sorted(tensors))): torch.zeros(99)}),
    "a moment of nothing": lambda state, tensors: tensors.update({"optimizer/nobody/exp_avg": torch.zeros(2)}),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_checkpoint_is_not_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[..., Any]
) -> None:
    whole, expected = interrupted(None, tmp_path / "a")
    with pytest.raises(Stop):
        interrupted(15, tmp_path / "b")
    forge(tmp_path / "b", change)
    again, result = interrupted(None, tmp_path / "b")
    assert "cannot be gone on from" in caplog.text
    assert result.curves == expected.curves
    assert same_state(again, whole)
