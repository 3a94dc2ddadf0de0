"""Hub models: the hub's cache, the messages, and the safetensors conversions. What the hub answers besides is tested in
tests/hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from made_up_networks import saved_files

from peftbench.errors import UsageError
from peftbench.hub import asking
from peftbench.models import conversions, load_backbone, sources
from peftbench.models.content import content_id

MAIN = "a" * 40


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A saved tiny BERT: name -> content."""
    return saved_files(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "models--org--net"


def fill(repository: Path, files: dict[str, bytes], commit: str) -> None:
    (repository / "snapshots" / commit).mkdir(parents=True)
    for name, content in files.items():
        (repository / "snapshots" / commit / name).write_bytes(content)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def pickled(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same with its weights in a file that is never read."""
    others = {name: content for name, content in files.items() if name != "model.safetensors"}
    return {**others, "pytorch_model.bin": files["model.safetensors"]}


@pytest.mark.parametrize("revision", [None, "main", MAIN])
def test_cached_repository_loads_without_a_network(revision, files, hub_cache, model_config):
    fill(hub_cache, files, MAIN)
    backbone = load_backbone(model_config("hub", path="org/net", revision=revision), "features")
    assert backbone.name == "org/net"
    assert backbone.revision == MAIN, "the commit is recorded, whatever was asked for"
    assert backbone.source == f"Hugging Face hub org/net@{MAIN}"


def test_not_cached_and_no_network(hub_cache, model_config):
    with pytest.raises(UsageError) as raised:
        load_backbone(model_config("bert-base"), "features")
    for said in ("model=bert-base", "google-bert/bert-base-uncased", "model=local model.path=DIR", "HF_HOME", "minilm"):
        assert said in str(raised.value)


def test_cached_pickled_weights_whose_conversion_nobody_knows(files, hub_cache, model_config):
    fill(hub_cache, pickled(files), MAIN)
    with pytest.raises(
        UsageError, match=r"no \*\.safetensors file.*never read.*HF_HUB_OFFLINE=1.*model\.revision=COMMIT"
    ):
        load_backbone(model_config("hub", path="org/net"), "features")


@pytest.mark.parametrize(("path", "message"), [("a/b/c", "not a repository name"), ("", "model.path is not set")])
def test_bad_names(path, message, hub_cache, model_config):
    with pytest.raises(UsageError, match=message):
        load_backbone(model_config("hub", path=path, name="hub"), "features")


def test_a_model_is_fetched_under_quiet_and_offline_from_then_on(files, hub, model_config, monkeypatch, capfd):
    """transformers' bars are off while a model is loaded; what is fetched is said all the same."""
    commit = hub.model("org/net").commit({**files, "pytorch_model.bin": b"", "modeling.py": b""})
    backbone = load_backbone(model_config("hub", path="org/net"), "features")
    assert backbone.revision == commit
    assert f"peftbench: fetching org/net@{commit}, " in capfd.readouterr().err
    assert not any(asked.endswith((".bin", ".py")) for asked in hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_backbone(model_config("hub", path="org/net"), "features").revision == commit


def test_main_that_moves_is_another_model(files, hub, model_config, monkeypatch):
    first = hub.model("org/net").commit(files)
    assert content_id(model_config("hub", path="org/net")) == first
    second = hub.model("org/net").commit({**files, "README.md": b"moved"})
    assert content_id(model_config("hub", path="org/net")) == first, "one command, one commit"
    monkeypatch.setattr(asking, "_resolved", {})  # the next command
    assert content_id(model_config("hub", path="org/net")) == second


def test_the_message_has_the_reason_and_the_ways_out(hub, model_config):
    hub.model("org/net").fault("info", 429, Retry_After="600")
    with pytest.raises(
        UsageError, match=r"model=org/net \(org/net at main\): .*429 .*wait 600 s.*HF_TOKEN.*model=local"
    ):
        load_backbone(model_config("hub", path="org/net"), "features")


@pytest.fixture
def converted(files, hub):
    """A repository whose main has pickled weights; returns it, its main and the commit of the conversion."""
    repo = hub.model("org/net")
    conversion = repo.commit(files, "refs/pr/1")
    main = repo.commit(pickled(files))
    repo.pulls = [
        (3, conversions.BOT, "Update README", "e" * 40, main),
        (1, conversions.BOT, conversions.TITLE, conversion, main),
    ]
    return repo, main, conversion


def test_the_hubs_own_conversion_is_used_recorded_and_found_again_offline(converted, model_config, monkeypatch):
    repo, main, conversion = converted
    cfg = model_config("hub", path="org/net")
    assert load_backbone(cfg, "features").revision == conversion
    for offline in (True, False):  # on a machine without a network; while the hub fails
        monkeypatch.setattr(asking, "_resolved", {})
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        repo.fault("info", 503)
        repo.fault("discussions", 503)
        assert load_backbone(cfg, "features").revision == conversion
        assert content_id(model_config("hub", path="org/net", revision=main)) == conversion


def test_a_conversion_that_could_not_be_asked_for_is_no_missing_one(converted, model_config):
    repo, main, _ = converted
    repo.fault("discussions", 503)
    with pytest.raises(UsageError, match=rf"{main} holds no .*could not be asked: the hub fails \(.*503"):
        content_id(model_config("hub", path="org/net"))


@pytest.mark.parametrize("change", ["none", "not the bot's", "of another commit", "no discussions"])
def test_other_conversions_are_not_trusted(change, converted, model_config):
    repo, _, conversion = converted
    if change == "no discussions":
        repo.fault("discussions", 403)
    number, bot, title, _, parent = repo.pulls.pop()
    repo.pulls = [] if change == "none" else [
        (number, "somebody" if change == "not the bot's" else bot, title, conversion,
         "c" * 40 if change == "of another commit" else parent)
    ]  # fmt: skip
    with pytest.raises(UsageError, match="never read here"):
        load_backbone(model_config("hub", path="org/net"), "features")


def test_a_config_that_was_looked_at_is_no_whole_checkpoint(files, hub, model_config, monkeypatch):
    """The hub is asked which files there are, and no conversion of weights that were not looked for."""
    commit = hub.model("org/net").commit(files)
    cfg = model_config("hub", path="org/net", revision=commit)
    assert (sources.config_folder(cfg) / "config.json").exists()
    monkeypatch.setattr(conversions, "of", lambda *_: pytest.fail("asked for a conversion"))
    assert sources.from_hub(cfg).revision == commit
    assert load_backbone(cfg, "features").revision == commit


def test_damage_inside_the_cached_tensors_is_mended_and_never_trained_on(files, hub, model_config, capfd):
    hub.model("org/net").commit(files)
    cfg = model_config("hub", path="org/net")
    folder = sources.locate(cfg).folder("hub")
    blob = (folder / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-4000:] = bytes(4000)
    blob.write_bytes(content)
    load_backbone(cfg, "features")
    assert "is damaged" in capfd.readouterr().err
    assert blob.read_bytes() == files["model.safetensors"]


def test_a_removed_cache_is_fetched_again(files, hub, model_config):
    hub.model("org/net").commit(files)
    cfg = model_config("hub", path="org/net")
    folder = sources.locate(cfg).folder("hub")
    shutil.rmtree(folder.parents[1])
    assert sources.locate(cfg).folder("hub") == folder
