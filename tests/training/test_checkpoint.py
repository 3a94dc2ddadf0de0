import json
import subprocess

import pytest
import torch

from peftbench.errors import UsageError
from peftbench.training import checkpoint


def write(folder, *steps):
    for step in steps:
        checkpoint.save(folder, step, {"w": torch.full((4,), float(step))}, {"step": step})


def test_round_trip_keeps_two_and_needs_no_pickle(tmp_path):
    write(tmp_path / "c", 5, 10, 15)
    folder = tmp_path / "c"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-00000010", "checkpoint-00000015"]
    name = checkpoint.newest(folder)
    tensors, state = checkpoint.load(folder / name)
    assert state == {"step": 15}
    assert torch.equal(tensors["w"], torch.full((4,), 15.0))
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".safetensors", ".json", ""}
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder / name, check=True)


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path, caplog, file, damage):
    write(tmp_path, 5, 10)
    path = tmp_path / "checkpoint-00000010" / file
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    assert checkpoint.newest(tmp_path) == "checkpoint-00000005"
    assert "checkpoint-00000010 is damaged" in caplog.text
    write(tmp_path, 10)
    assert checkpoint.newest(tmp_path) == "checkpoint-00000010"


def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    write(tmp_path, 5)
    monkeypatch.setattr(checkpoint.Path, "rename", lambda *_: (_ for _ in ()).throw(OSError("power is gone")))
    with pytest.raises(UsageError, match="checkpoint-00000010"):
        write(tmp_path, 10)
    assert checkpoint.newest(tmp_path) == "checkpoint-00000005"
    monkeypatch.undo()
    write(tmp_path, 10)
    assert checkpoint.newest(tmp_path) == "checkpoint-00000010"


def test_no_checkpoint_and_clear(tmp_path):
    folder = tmp_path / "c"
    assert checkpoint.newest(folder) is None
    checkpoint.clear(folder)
    write(folder, 5)
    checkpoint.clear(folder)
    assert not folder.exists()
    write(folder, 5)
    (folder / "mine.json").write_text(json.dumps(1))
    checkpoint.clear(folder)
    assert [p.name for p in folder.iterdir()] == ["mine.json"]
