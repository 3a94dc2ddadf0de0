"""A backbone is named by what it is: hashes of files, commits of branches, and the runs that rest on them."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from made_up_networks import save_backbone

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.inputs import InputCache, adapter_content, contents
from peftbench.models import content, hashing, load_backbone
from peftbench.models.backbone_cache import keep_loaded
from peftbench.models.content import content_id
from peftbench.models.hashing import content_hash
from peftbench.records.leaderboard import row
from peftbench.records.store import Store
from peftbench.runner import run


@pytest.fixture
def folder(tmp_path, model_config) -> Path:
    """A saved tiny BERT."""
    return save_backbone(load_backbone(model_config("tiny-bert"), "features"), tmp_path / "net")


def other_weights(folder: Path) -> None:
    """The same file with the same size and time of change, rewritten in place, and other numbers in it."""
    weights = folder / "model.safetensors"
    before = weights.stat()
    raw = bytearray(weights.read_bytes())
    raw[-4000:] = torch.randn(1000, generator=torch.Generator().manual_seed(0)).numpy().tobytes()
    with weights.open("r+b") as file:
        file.write(raw)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_ino) == (before.st_size, before.st_ino)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "vocab.txt"]
)
def test_every_file_that_is_read_is_in_the_name(name, folder, model_config):
    cfg = model_config("local", path=str(folder))
    before = content_id(cfg)
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert content_id(cfg) != before
    (folder / "README.md").write_text("not read")
    assert content_id(cfg) == content_id(model_config("local", path=str(folder), name="other", family="causal"))


def test_a_hash_is_computed_once_and_never_kept_for_other_bytes(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 100)
    os.utime(file, ns=(0, 0))
    monkeypatch.setattr(hashing, "SETTLED", 0)
    first = content_hash([file])
    hashing._hashes.clear()  # as another process would begin
    monkeypatch.setattr(hashing, "_sha256", lambda files: pytest.fail("read again"))
    assert content_hash([file]) == first
    monkeypatch.undo()
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=(0, 0))
    assert content_hash([file]) != first


def test_head_and_architecture_are_in_the_name(model_config):
    bare, headed = (model_config(name, source="random", path=None) for name in ("minilm", "minilm-mlm"))
    assert content_id(bare) == content_id(headed) == content.random_revision({})
    tiny = model_config("tiny-bert")
    assert (
        content_id(tiny)
        == content_id(model_config("tiny-bert", name="x", pooling="cls"))
        == "random:" + content_id(tiny).removeprefix("random:")
    )
    assert content_id(tiny) != content_id(model_config("tiny-bert", arch={**tiny.arch, "hidden_size": 32}))


def test_a_branch_is_its_commit(tmp_path, monkeypatch, model_config):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--org--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    cfg = model_config("hub", path="org/net")
    assert content_id(cfg) == content_id(model_config("hub", path="org/net", revision="a" * 40)) == "a" * 40
    (repository / "refs" / "main").write_text("b" * 40)
    assert content_id(cfg) == "b" * 40
    assert content_id(model_config("gpt2")) == model_config("gpt2").revision, "a commit needs no look-up"
    with pytest.raises(UsageError, match="not in the hub's cache"):
        content_id(model_config("hub", path="org/net", revision="../../x"))


def settings(folder: Path, out: Path, *more: str):
    return compose(["method=head_only", "model=local", f"model.path={folder}", "task=demo_news", "shots=2", *more,
                    "trainer=debug", "trainer.probe=false", "tracking.wandb=disabled", f"out_dir={out}"])  # fmt: skip


def test_other_weights_at_the_same_path_are_another_run(folder, tmp_path):
    """Case 01: the score of the first weights was given for the second ones, and both were averaged."""
    with keep_loaded():
        first, _ = run(settings(folder, tmp_path / "out"))
        other_weights(folder)
        second, is_new = run(settings(folder, tmp_path / "out"))
    assert first is not None
    assert second is not None
    assert is_new
    assert first.run_id != second.run_id
    assert row(first)["variant"] != row(second)["variant"]
    assert first.model_info["revision"] != second.model_info["revision"] == second.identity["contents"]["model"]


def test_weights_that_change_after_the_run_was_named_end_it(folder, tmp_path, monkeypatch):
    """Nothing is trained on, or resumed onto, other weights than those in the run's name."""
    from peftbench.session import Session

    opened = Session._open

    def replaced_meanwhile(self):
        opened(self)
        other_weights(folder)

    monkeypatch.setattr(Session, "_open", replaced_meanwhile)
    with pytest.raises(UsageError, match="has changed since this run was named"):
        run(settings(folder, tmp_path / "out"))


def test_frozen_features_say_which_backbone_they_are_of(tmp_path):
    record, _ = run(compose(["method=frozen_lr", "model=tiny-bert", "task=demo_news", "shots=2", "trainer=debug",
                             "tracking.wandb=disabled", f"out_dir={tmp_path}"]))  # fmt: skip
    assert record is not None
    assert record.model_info.keys() == {"family", "revision", "source", "pooling", "hidden_size"}


def test_the_adapter_that_a_run_starts_from_is_in_its_name(folder, tmp_path):
    source, _ = run(settings(folder, tmp_path, "method=prompt_tuning"))
    assert source is not None
    cfg = settings(folder, tmp_path, "method=prompt_tuning", f"method.init_from={source.run_id}")
    before = InputCache().run_id(cfg)
    (saved,) = (p for p in (tmp_path / "runs" / source.run_id / "adapter").rglob("adapter_model.safetensors"))
    saved.write_bytes(saved.read_bytes() + b" ")
    assert InputCache().run_id(cfg) != before
    shutil.rmtree(tmp_path / "runs" / source.run_id)
    assert contents(cfg)["init_from"] == "absent"


@pytest.mark.parametrize("name", ["../elsewhere", "x" * 300, "a/b", ""])
def test_what_a_run_starts_from_is_the_id_of_one(name, tmp_path):
    with pytest.raises(UsageError, match="is no id of a run"):
        adapter_content(Store(tmp_path), name)
