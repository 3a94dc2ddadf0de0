"""`peftbench reproduce`: equal runs are found equal, changed ones refused or told apart; nothing recorded is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.cli import main
from peftbench.config import compose
from peftbench.inputs import adapter_content
from peftbench.records.record import Record
from peftbench.records.store import Store
from peftbench.reproduce import checks, outcome
from peftbench.reproduce.sources import lend, missing
from peftbench.runner import run

FAST = ["task=demo_news", "tracking.wandb=disabled", "shots=2"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A folder with one run of a floor, made as a user makes it."""
    folder = tmp_path_factory.mktemp("reproduce")
    run(compose([*FAST, "method=tfidf_lr", f"out_dir={folder / 'results'}"]))
    return folder


@pytest.fixture
def here(origin, tmp_path, monkeypatch):
    """A copy of it to work in."""
    import shutil

    shutil.copytree(origin / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    return Store("results")


def call(capsys, *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", *args])
    captured = capsys.readouterr()
    return caught.value.code, captured.out + captured.err


def only(store: Store) -> Record:
    (record,) = store.all()
    return record


def change(store: Store, **fields) -> Record:
    record = only(store)
    for name, value in fields.items():
        setattr(record, name, value)
    store.save(record)
    return record


def test_a_floor_is_reproduced_exactly_and_filed_apart(here, capsys):
    record = only(here)
    before = here.path(record.run_id).read_bytes()
    code, text = call(capsys, record.run_id[:6])
    assert code == 0
    assert "tolerance: none" in text
    assert "predictions changed of 105" in text
    assert "DIFFERS" not in text
    assert here.path(record.run_id).read_bytes() == before
    assert [r.run_id for r in here.all()] == [record.run_id]
    again = only(Store("results/reproductions"))
    assert again.created >= record.created
    assert again.scores == record.scores
    code, text = call(capsys, record.run_id, "--json")  # once more: the reproduction itself may be repeated
    assert code == 0
    assert json.loads(text)["level"] == "exact"


@pytest.mark.slow
def test_a_trained_model_is_reproduced_exactly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, _ = run(compose([*FAST, "method=lora", "model=tiny-bert", "trainer=debug", "trainer.precision=fp32"]))
    code, text = call(capsys, first.run_id, "--json")
    found = json.loads(text)
    assert code == 0
    assert (found["level"], found["within"]) == ("exact", True)
    named = {line["name"]: line for line in found["lines"]}
    assert named["last training loss"]["difference"] == 0
    assert named["model revision"]["ok"]


def test_check_runs_nothing_and_loads_no_torch(here):
    code = (
        "import sys\nfrom peftbench.cli import main\n"
        f"try:\n    main(['reproduce', '{only(here).run_id}', '--check'])\n"
        "except SystemExit as e:\n    assert e.code == 0\n"
        "print([m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "can be reproduced" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
    assert not Path("results/reproductions").exists()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("version", "made by peftbench 0.0.1"),
        ("data", "the data of demo_news/eng is not the same"),
        ("draw", "the draw is not the same"),
    ],
)
def test_what_has_changed_is_named(here, capsys, part, words):
    record = only(here)
    if part == "version":
        record.environment["versions"]["peftbench"] = "0.0.1"
    else:
        getattr(record, part)["sha256"] = "0" * 64
    if part == "data":
        record.data["source"]["files"]["train.tsv"] = "1" * 64
    here.save(record)
    code, text = call(capsys, record.run_id)
    assert code == 2
    assert words in text
    assert "--force" in text
    assert text.count("\n") == 1
    assert not Path("results/reproductions").exists()
    if part == "data":
        assert "train.tsv" in text
        code, text = call(capsys, record.run_id, "--force")
        assert code == 0
        assert f"warning: {words}" in text


def test_another_model_revision_is_refused(here, monkeypatch, tmp_path):
    record = only(here)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    cfg = compose([*FAST, "method=lora", "model=local", f"model.path={folder}", "model.family=encoder"])
    record.model_info["revision"] = "sha256:before"
    (found,) = checks._model(record, cfg)
    assert "its revision was sha256:before, it is sha256:" in found.what
    record.model_info["revision"] = found.what.rpartition(" ")[2]
    assert list(checks._model(record, cfg)) == []


def test_a_hub_model_is_pinned_to_the_commit_that_was_read(here):
    record = only(here)
    record.config["model"] |= {"source": "hub", "path": "org/name"}
    record.model_info = {"revision": "abc123"}
    assert checks.rebuild_config(record, "elsewhere", None).model.revision == "abc123"


def test_numbers_that_differ_end_with_1(here, capsys):
    record = only(here)
    wrong = {name: value + 0.5 for name, value in record.scores.items()}
    change(here, scores=wrong, score=wrong[record.metric])
    code, text = call(capsys, record.run_id)
    assert code == 1
    assert "DIFFERS" in text
    assert "NOT reproduced" in text


def test_other_packages_allow_for_rounding(here, capsys):
    record = only(here)
    record.environment["versions"]["numpy"] = "1.0"
    wrong = {name: value + 0.5 for name, value in record.scores.items()}
    change(here, scores=wrong, environment=record.environment)
    code, text = call(capsys, record.run_id)
    assert code == 0
    assert "packages: numpy 1.0, now" in text
    assert "tolerance: 2 points" in text
    assert call(capsys, record.run_id, "--tolerance", "0.1")[0] == 1


def test_tolerance_comes_from_other_training_seeds_not_from_other_draws(here):
    record = only(here)
    assert outcome.tolerance_points(here, record)[0] == outcome.DEFAULT_POINTS
    for i, (draw, score) in enumerate([("x", 70.0), ("x", 72.0), ("x", 74.0), ("y", 10.0)]):
        copy = Record.from_dict({**record.to_dict(), "run_id": f"{i}" * 16, "seed": i + 2, "score": score})
        copy.draw = {**record.draw, "sha256": draw}
        here.save(copy)
    points, words = outcome.tolerance_points(here, record)
    assert points == pytest.approx(2 * 2**0.5 * 2)
    assert "training seeds" in words


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["0" * 16], "no such run"),
        (["--devices", "0"], "not a whole number above 0"),
        (["--tolerance", "-1"], "from 0 to 100"),
        (["../x"], "is not a run id"),
        (["--chek"], "--chek: no such option. Did you mean `--check`?"),
        (["0" * 16, "--out-dir", "result"], "Did you mean `results`?"),
    ],
)
def test_mistakes_are_one_line(here, capsys, args, words):
    code, text = call(capsys, *(args if args[0][0] != "-" else [only(here).run_id, *args]))
    assert code == 2
    assert words in text
    assert text.count("\n") == 1


def test_a_run_without_a_result_is_not_reproduced(here, capsys):
    record = change(here, status="failed", reason="it crashed", score=None)
    code, text = call(capsys, record.run_id)
    assert code == 2
    assert "it crashed" in text
    assert "peftbench method=tfidf_lr shots=2" in text


def test_a_config_of_another_version_is_refused_and_a_new_key_is_mentioned(here, capsys):
    record = only(here)
    del record.config["trainer"]["clip"]
    here.save(record)
    code, text = call(capsys, record.run_id, "--check")
    assert code == 0
    assert "trainer.clip=1.0" in text
    record.config["trainer"]["clipping"] = 1
    here.save(record)
    code, text = call(capsys, record.run_id, "--check")
    assert code == 2
    assert "cannot read the run's config" in text
    assert "Did you mean `clip" in text or "trainer.clipping" in text


def test_two_runs_that_begin_alike_are_named(here, capsys):
    record = only(here)
    twin = record.run_id[:8] + "0" * 8
    here.save(Record.from_dict({**record.to_dict(), "run_id": twin}))
    code, text = call(capsys, record.run_id[:8])
    assert code == 2
    assert twin in text


def heirs(store: Store) -> list[Record]:
    """Made up: three runs, each started from the one before, and what each has trained."""
    made: list[Record] = []
    for number in range(3):
        source = made[-1].run_id if made else None
        content = adapter_content(store, source) if source else None
        fields = {"run_id": f"{number:016x}", "config": {"method": {"init_from": source}}}
        made.append(Record.from_dict({**store.all()[0].to_dict(), **fields}))
        made[-1].identity = {"contents": {"init_from": content}} if source else {}
        store.save(made[-1])
        adapter = store.folder(made[-1].run_id) / "adapter"
        adapter.mkdir(parents=True)
        (adapter / "adapter.safetensors").write_bytes(bytes([number]))
    return made


def test_every_run_that_it_goes_back_to_is_lent(here):
    first, second, last = heirs(here)
    assert list(missing(here, last)) == []
    other = Store("results/reproductions")
    lend(here, other, last)
    for record in (first, second):
        assert other.load(record.run_id).run_id == record.run_id
        assert adapter_content(other, record.run_id) == adapter_content(here, record.run_id)
    assert other.load(last.run_id) is None


@pytest.mark.parametrize("gone", ["record", "weights"])
def test_a_source_that_is_gone_is_named(here, gone):
    first, second, last = heirs(here)
    here.path(first.run_id).unlink() if gone == "record" else shutil.rmtree(here.folder(first.run_id) / "adapter")
    (refusal,) = missing(here, last)
    assert refusal.what.startswith(f"run {second.run_id} started from run {first.run_id}, wh")
    assert not refusal.can_force


def test_a_source_that_was_trained_again_is_said(here):
    _, second, last = heirs(here)
    (here.folder(second.run_id) / "adapter" / "adapter.safetensors").write_bytes(b"other")
    (refusal,) = missing(here, last)
    assert "which has been trained again since" in refusal.what
    assert refusal.can_force


@pytest.mark.slow
def test_a_chain_is_reproduced_and_without_its_first_run_refused(tmp_path, monkeypatch, capsys):
    """The first run has trained the whole backbone: without it the last would start from other weights."""
    monkeypatch.chdir(tmp_path)
    place = [*FAST, "model=tiny-bert", "trainer=debug", "trainer.save=all", "protocol.drop_overlap=false"]
    made: list[Record] = []
    for method in ("full", "lora", "lora"):
        source = [f"method.init_from={made[-1].run_id}"] if made else []
        record, _ = run(compose([*place, *source, f"method={method}", f"seed={len(made)}"]))
        made.append(record)
    code, text = call(capsys, made[-1].run_id, "--json")
    assert code == 0, text
    found = json.loads(text)
    assert found["level"] == "exact"
    new = Store("results/reproductions").load(found["new_run_id"])
    assert (new.identity["contents"], new.notes) == (made[-1].identity["contents"], made[-1].notes)
    Store("results").path(made[0].run_id).unlink()
    code, text = call(capsys, made[-1].run_id, "--force")
    assert code == 2
    assert f"run {made[1].run_id} started from run {made[0].run_id}, which is not in" in text
    assert text.count("\n") == 1
