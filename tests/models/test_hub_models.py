"""Hub models without a network: the hub's cache, the errors, and the safetensors conversions."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from peftbench.errors import UsageError
from peftbench.models import load_backbone, sources

MAIN, CONVERSION = "a" * 40, "b" * 40


@pytest.fixture
def tiny_bert(tmp_path, model_config) -> Path:
    """A saved tiny BERT."""
    backbone = load_backbone(model_config("tiny-bert"), "features")
    backbone.model.save_pretrained(tmp_path / "saved")
    backbone.tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "models--org--net"


def fill(repository: Path, folder: Path, commit: str) -> None:
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


@pytest.mark.parametrize("revision", [None, "main", MAIN])
def test_cached_repository_loads_without_a_network(revision, tiny_bert, hub_cache, model_config):
    fill(hub_cache, tiny_bert, MAIN)
    backbone = load_backbone(model_config("hub", path="org/net", revision=revision), "features")
    assert backbone.name == "org/net"
    assert backbone.revision == MAIN, "the commit is recorded, whatever was asked for"
    assert backbone.source == f"Hugging Face hub org/net@{MAIN}"


def test_not_cached_and_no_network(hub_cache, model_config):
    with pytest.raises(UsageError) as raised:
        load_backbone(model_config("bert-base"), "features")
    for said in ("model=bert-base", "google-bert/bert-base-uncased", "model=local model.path=DIR", "HF_HOME", "minilm"):
        assert said in str(raised.value)


def test_cached_repository_with_pickled_weights_only(tiny_bert, hub_cache, model_config):
    (tiny_bert / "model.safetensors").rename(tiny_bert / "pytorch_model.bin")
    fill(hub_cache, tiny_bert, MAIN)
    with pytest.raises(UsageError, match=r"no \*\.safetensors file.*never read.*model\.revision=COMMIT"):
        load_backbone(model_config("hub", path="org/net"), "features")


@pytest.mark.parametrize(("path", "message"), [("a/b/c", "not a repository name"), ("", "model.path is not set")])
def test_bad_names(path, message, hub_cache, model_config):
    with pytest.raises(UsageError, match=message):
        load_backbone(model_config("hub", path=path, name="hub"), "features")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "gated.*hf auth login"),
        (errors.RepositoryNotFoundError, "no such repository"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.HfHubHTTPError, "download failed"),
        (errors.HTTPError, "download failed"),
        (PermissionError, "download failed"),
    ],
)
def test_what_the_hub_answers_becomes_one_message(kind, message, monkeypatch, model_config):
    def answer(*_, **__):
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(UsageError, match=f"model=gpt2 .*{message}"):
        load_backbone(model_config("gpt2"), "features")


def pull(author=sources.CONVERSION_BOT, title=sources.CONVERSION_TITLE, number=1):
    return SimpleNamespace(author=author, title=title, git_reference=f"refs/pr/{number}")


class FakeApi:
    """The questions that the look-up asks."""

    def model_info(self, repo_id, revision):
        assert (repo_id, revision) == ("org/net", "main")
        return SimpleNamespace(sha=MAIN, siblings=[SimpleNamespace(rfilename="pytorch_model.bin")])

    pulls: list = []  # noqa: RUF012
    parent = MAIN

    def get_repo_discussions(self, repo_id, author, discussion_type):
        assert (repo_id, author, discussion_type) == ("org/net", sources.CONVERSION_BOT, "pull_request")
        return iter(self.pulls)

    def list_repo_commits(self, repo_id, revision):
        assert revision.startswith("refs/pr/")
        return [SimpleNamespace(commit_id=CONVERSION), SimpleNamespace(commit_id=self.parent)]


@pytest.fixture
def pickled_main(tiny_bert, tmp_path, monkeypatch):
    """A repository whose main has pickled weights and whose conversion commit has safetensors."""
    fill(tmp_path / "net", tiny_bert, CONVERSION)
    fill(tmp_path / "net", tiny_bert, MAIN)
    weights = tmp_path / "net" / "snapshots" / MAIN / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))

    def snapshot_download(path, revision, allow_patterns, ignore_patterns):
        assert not any(p.endswith(".bin") for p in allow_patterns)
        return str(tmp_path / "net" / "snapshots" / (MAIN if revision in (None, "main") else revision))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    sources._resolved.clear()


def test_the_hubs_own_conversion_is_used_and_recorded(pickled_main, monkeypatch, model_config):
    monkeypatch.setattr(FakeApi, "pulls", [pull(title="Update README", number=3), pull()])
    assert load_backbone(model_config("hub", path="org/net"), "features").revision == CONVERSION


@pytest.mark.parametrize(
    ("pulls", "parent"),
    [([], MAIN), ([pull(author="somebody")], MAIN), ([pull()], "c" * 40)],
    ids=["none", "not the bot's", "of another commit"],
)
def test_other_conversions_are_not_trusted(pulls, parent, pickled_main, monkeypatch, model_config):
    monkeypatch.setattr(FakeApi, "pulls", pulls)
    monkeypatch.setattr(FakeApi, "parent", parent)
    with pytest.raises(UsageError, match="never read here"):
        load_backbone(model_config("hub", path="org/net"), "features")


def test_a_config_that_was_looked_at_is_no_whole_checkpoint(hub_cache, model_config, monkeypatch):
    """The hub is asked which files there are, and no conversion of weights that were not looked for."""
    (hub_cache / "snapshots" / MAIN).mkdir(parents=True)
    (hub_cache / "snapshots" / MAIN / "config.json").write_text("{}")
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "_resolved", {})
    monkeypatch.setattr(sources, "_ask", lambda cfg, revision: (MAIN, ["config.json", "model.safetensors"]))
    monkeypatch.setattr(sources, "_safetensors_conversion", lambda *args: asked.append(args))
    assert sources.from_hub(model_config("hub", path="org/net", revision=MAIN)).revision == MAIN
    assert not asked
