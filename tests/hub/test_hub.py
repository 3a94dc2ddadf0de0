"""What the hub answers, and what becomes of it: commits, files, faults. docs/hub.md lists the behaviours by test."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from huggingface_hub import constants
from tiers import rest_slow

from peftbench.hub import HubProblem, Repository, asking, explain, fetch, resolve

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100, "README.md": b"not fetched"}
WANTED = ["*.json", "*.safetensors"]
NET, SET = Repository("org/net"), Repository("org/set", "dataset", "task.hub.repo", "task.hub.revision")


def get(repository: Repository = NET, revision: str = "main") -> Path:
    return fetch(repository, resolve(repository, revision).commit, WANTED)


@pytest.mark.parametrize("repository", rest_slow([NET, SET], [NET]), ids=["model", "dataset"])
def test_a_branch_is_resolved_fetched_once_and_then_read_from_the_cache(repository, hub, capfd):
    commit = hub.repos.setdefault((f"{repository.kind}s", repository.name), hub.model("org/net")).commit(FILES)
    folder = get(repository)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert capfd.readouterr().err == f"peftbench: fetching {repository.name}@{commit}, 702 bytes\n"
    asked = len(hub.requests)
    assert get(repository) == folder
    assert len(hub.requests) == asked, "what lies in the cache costs no request"
    assert capfd.readouterr().err == ""


def test_a_token_goes_to_the_hub_alone(hub, monkeypatch):
    commit = hub.model("org/net").commit(FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get()
    assert hub.tokens["/api/models/org/net/revision/main"] == "Bearer hf_secret"
    assert hub.tokens[f"/cdn/models/org/net/{commit}/model.safetensors"] is None


@pytest.mark.parametrize(
    ("status", "headers", "reason", "way"),
    [
        (401, {"X_Error_Code": "GatedRepo"}, "the repository is gated", "hf auth login"),
        (403, {"X_Error_Code": "GatedRepo"}, "the repository is gated", "licence"),
        (404, {"X_Error_Code": "RepoNotFound"}, "no such repository", "task.hub.repo"),
        (404, {"X_Error_Code": "RevisionNotFound"}, "no such revision", "leave task.hub.revision empty"),
        (
            401,
            {"X_Error_Message": "Invalid credentials in Authorization header"},
            "does not accept the token",
            "HF_TOKEN",
        ),
        (403, {"X_Error_Message": "Scope missing"}, "403 Forbidden: Scope missing", "token that may read"),
        (403, {"X_Error_Message": "Access to this resource is disabled."}, "is disabled", ""),
        (429, {"Retry_After": "3600"}, "too many requests", "wait 3600 s"),
        (429, {"RateLimit": '"api";r=0;t=3600'}, "reached your 'api' rate limit. Retry after 3600 seconds", "HF_TOKEN"),
        (500, {}, "500 Internal Server Error", "later"),
        (503, {}, "503 Service Unavailable", "later"),
        ("page", {}, "did not answer as a hub", "HF_ENDPOINT"),
    ],
)
def test_what_the_hub_answers_is_said_as_what_it_is(status, headers, reason, way, hub):
    hub.dataset("org/set").commit(FILES)
    hub.dataset("org/set").fault("info", status, **headers)
    with pytest.raises(HubProblem) as raised:
        get(SET)
    assert reason in raised.value.reason
    assert way in raised.value.way
    assert "cannot be reached" not in raised.value.reason
    assert "http" not in raised.value.reason.replace(constants.ENDPOINT, "")


@pytest.mark.parametrize(
    ("status", "headers"), rest_slow([(503, {}), (429, {"Retry_After": "0"}), (500, {})], [(503, {})])
)
def test_a_passing_fault_of_the_api_is_waited_for(status, headers, hub, capfd):
    hub.model("org/net").commit(FILES)
    hub.model("org/net").fault("info", status, 2, **headers)
    assert (get() / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    told = capfd.readouterr().err
    assert told.count("asking again in") == 2
    assert str(status) in told


def test_patience_has_an_end(hub):
    hub.model("org/net").fault("info", 503)
    with pytest.raises(HubProblem, match="503"):
        resolve(NET, "main")
    assert len(hub.requests) == 1 + len(asking.PAUSES)
    with pytest.raises(HubProblem, match="503"):
        resolve(NET, "main")
    assert len(hub.requests) == 2 + len(asking.PAUSES), "the next run of a sweep does not wait as long again"


def test_a_branch_is_its_cached_commit_while_the_hub_fails(hub, monkeypatch, capfd):
    commit = hub.model("org/net").commit(FILES)
    get()
    hub.model("org/net").fault("info", 503)
    monkeypatch.setattr(asking, "_resolved", {})
    assert resolve(NET, "main").commit == commit
    assert "503 Service Unavailable" in (told := capfd.readouterr().err)
    assert f"What its cache has for main is used: {commit}" in told


def test_no_network(hub, monkeypatch):
    commit = hub.model("org/net").commit(FILES)
    get()
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr(asking, "_resolved", {})
    assert get().name == commit, "cached: no request is needed, and the branch is what it was"
    with pytest.raises(HubProblem, match=r"the hub \(http://127.* cannot be reached") as raised:
        get(SET)
    assert "run once with a network" in raised.value.way


def test_offline_is_said_and_what_is_missing(hub, hub_is_offline, monkeypatch):
    with pytest.raises(HubProblem, match="not in the hub's cache, and HF_HUB_OFFLINE=1 forbids"):
        get()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    commit = hub.model("org/net").commit(FILES)
    (get() / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubProblem, match=r"only a part of it; missing: model\.safetensors.*HF_HUB_OFFLINE=1"):
        fetch(NET, commit, WANTED)


@pytest.mark.parametrize("name", ["org/net/more", "-net", "a" * 100])
def test_names_that_no_repository_has(name, hub):
    with pytest.raises(HubProblem, match=r"model\.path=.* is not a repository name on the hub"):
        get(Repository(name))
    assert not hub.requests


def test_bytes_that_are_not_the_hubs_are_fetched_again(hub, capfd):
    hub.model("org/net").commit(FILES)
    hub.model("org/net").fault("cdn", "flip", 1)
    assert (get() / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert "model.safetensors in the hub's cache is damaged" in capfd.readouterr().err
    for name in ("model.safetensors", "config.json"):
        blob = (get() / name).resolve()
        blob.write_bytes(bytes(len(FILES[name])))
        assert (get() / name).read_bytes() == FILES[name], "damage on this disk, in a large and in a small file"


def test_files_that_others_fetched_are_not_looked_at(hub, capfd):
    from huggingface_hub import snapshot_download

    hub.model("org/net").commit(FILES)
    other = Path(snapshot_download("org/net"), "README.md").resolve()
    other.write_bytes(b"not the hub's")
    get()
    assert "damaged" not in capfd.readouterr().err


def test_damage_that_stays_names_the_blob_and_what_to_remove(hub, monkeypatch):
    commit = hub.model("org/net").commit(FILES)
    hub.model("org/net").fault("cdn", "flip")
    with pytest.raises(HubProblem, match=r"model\.safetensors is damaged") as raised:
        get()
    blob = (NET.snapshot(commit) / "model.safetensors").resolve()
    assert f"remove {blob} and the link to it" in raised.value.way
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubProblem, match="damaged"):
        get()
    hub.model("org/net").faults.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    blob.unlink()
    (NET.snapshot(commit) / "model.safetensors").unlink()
    assert (get() / "model.safetensors").read_bytes() == FILES["model.safetensors"], "the way out is one"


def test_a_blob_is_hashed_once(hub, monkeypatch):
    from peftbench.hub import blobs

    hub.model("org/net").commit(FILES)
    monkeypatch.setattr(blobs, "SETTLED", 0)
    get()
    monkeypatch.setattr(blobs, "_hash", lambda blob: pytest.fail(f"{blob} is hashed again"))
    get()
    blobs._sound.clear()  # as another process would begin
    get()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["tree", "file", "cdn"])
def test_the_clients_own_patience_ends_in_the_same_words(place, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.model("org/net").commit(FILES)
    hub.model("org/net").fault(place, 503)
    with pytest.raises(HubProblem, match="503 Service Unavailable") as raised:
        get()
    assert "later" in raised.value.way


@pytest.mark.slow
@pytest.mark.parametrize(("times", "whole"), [(1, True), (None, False)])
def test_a_connection_that_is_cut(times, whole, hub):
    hub.model("org/net").commit(FILES)
    hub.model("org/net").fault("cdn", "cut", times)
    if whole:
        assert (get() / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    else:
        with pytest.raises(HubProblem, match=r"was cut|wrong length") as raised:
            get()
        assert "give the same command again" in raised.value.way


@pytest.mark.slow
def test_an_api_that_hangs_is_given_up_and_said(hub, monkeypatch, capfd):
    hub.model("org/net").commit(FILES)
    hub.model("org/net").fault("info", "hang")
    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    with pytest.raises(HubProblem, match="does not answer in time"):
        get()
    assert "asking again" in capfd.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
def test_a_cache_that_cannot_be_written(number):
    problem = explain(OSError(number, "", "/shared/hub"), NET)
    assert "/shared/hub" in problem.reason
    assert "HF_HOME" in problem.way
