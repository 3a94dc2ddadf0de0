"""A run from the command line to its record, on a random tiny backbone."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from tiers import rest_slow
from waiting import until

from peftbench.cli import main
from peftbench.config import compose
from peftbench.records import fill
from peftbench.runner import run
from peftbench.tasks import load_task
from peftbench.training.launch import Outcome

TINY = ("tiny-bert", "tiny-roberta", "tiny-t5", "tiny-llama")
FAST = ["model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=2"]


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    return tmp_path


def records(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted((folder / "results" / "records").glob("*.json"))]


def test_one_run_files_one_record_one_row_and_its_files(here, capsys):
    assert call(*FAST, "method=dept") == 0
    (record,) = records(here)
    assert record["status"] == "done"
    assert record["metric"] == "f1_weighted"
    assert record["scores"]["f1_weighted"] == record["score"]
    phases = {k: v for k, v in record["seconds"].items() if k != "total"}
    assert sum(phases.values()) == pytest.approx(record["seconds"]["total"], abs=1e-6)
    for phase in ("import", "data", "model", "method", "train", "eval", "save"):
        assert phase in phases
    assert record["compute"]["step_flops"] > 0
    assert record["memory"]["saved_bytes"] > 0
    assert record["memory"]["train_peak_mib"] >= 0
    assert record["parameters"]["adapter_bytes"] > 0
    folder = here / "results" / "runs" / record["run_id"]
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 105
    drawn = json.loads((folder / "draw.json").read_text())
    assert drawn["sha256"] == record["draw"]["sha256"]
    with (here / "results" / "leaderboard.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["run_id"] == record["run_id"]
    assert float(row["score"]) == record["score"]
    assert "dept on demo_news" in capsys.readouterr().out


class Later(datetime):
    """Records are told apart by the second."""

    @classmethod
    def now(cls, zone=None):
        return datetime.now(zone) + timedelta(seconds=2)


def test_the_same_command_again_trains_nothing_unless_told_to(here, monkeypatch, capsys):
    assert call(*FAST, "method=lora") == 0
    (first,) = records(here)
    capsys.readouterr()
    assert call(*FAST, "method=lora") == 0
    assert "nothing was trained" in capsys.readouterr().out
    assert records(here) == [first]
    monkeypatch.setattr(fill, "datetime", Later)
    assert call(*FAST, "method=lora", "rerun=true") == 0
    (again,) = records(here)
    assert again["run_id"] == first["run_id"]
    assert again["created"] > first["created"]
    assert again["score"] == first["score"]
    assert len(list((here / "results" / "superseded").iterdir())) == 1


PAIRS = list(product(["full", "head_only", "lora", "prompt_tuning", "dept"], [*TINY]))
EACH_ONCE = [("full", "tiny-roberta"), ("head_only", "tiny-t5"), ("lora", "tiny-llama"), ("prompt_tuning", "tiny-t5")]


@pytest.mark.parametrize(("method", "model"), rest_slow(PAIRS, EACH_ONCE))
def test_every_method_on_every_family(here, method, model):
    assert call(*FAST, f"model={model}", f"method={method}", "shots=1") == 0
    assert records(here)[0]["status"] == "done"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_grid_of_frozen_embeddings_costs_one_pass_over_the_data(here, monkeypatch, tmp_path, processes):
    """4 shot counts x 5 draws: each text goes through the backbone once, whoever needs it first."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    grid = ["-m", *FAST, "method=frozen_lr", "data_seed=range(1,6)", "shots=2,3,4,5"]
    assert call(*grid, f"hydra.launcher.n_jobs={processes}") == 0
    found = records(here)
    assert len(found) == 20
    told = [re.search(r"(\d+) of (\d+) embeddings came from the cache", " ".join(r["notes"])) for r in found]
    embedded = sum(int(asked) - int(kept) for kept, asked in (match.groups() for match in told))
    data = load_task(compose(["task=demo_news"]).task, None)
    texts = {row.text for rows in (data.train, data.dev, data.test) for row in rows}
    assert len(data.test) <= embedded <= 1.2 * len(texts)


def test_a_sweep_goes_on_after_a_mistake_and_says_so(here, capsys):
    assert call("-m", *FAST, "method=majority,tfidf_lr", "shots=2,10000") == 2
    assert len(records(here)) == 2
    assert capsys.readouterr().err.count("10000") >= 2


def test_divergence_is_recorded_and_not_taken_for_done(here, capsys):
    args = [*FAST, "method=full", "method.lr.backbone=1e30", "method.lr.head=1e30", "trainer.clip=0", "trainer.steps=6"]
    assert call(*args) == 1
    (record,) = records(here)
    assert record["status"] == "diverged"
    assert "step" in record["reason"]
    assert record["score"] is None
    assert call(*args) == 1
    assert "nothing was trained" not in capsys.readouterr().out


def test_a_crash_is_a_record_with_its_traceback(here, monkeypatch):
    import peftbench.stages.learning as supervised

    monkeypatch.setattr(supervised, "train", lambda *a, **k: 1 / 0)
    assert call(*FAST, "method=lora") == 1
    (record,) = records(here)
    assert record["status"] == "failed"
    assert "ZeroDivisionError" in record["reason"]
    folder = here / "results" / "runs" / record["run_id"]
    assert "ZeroDivisionError" in (folder / "traceback.txt").read_text()


def test_interruption_is_recorded_and_the_same_command_starts_again(here, monkeypatch):
    import peftbench.stages.learning as supervised

    real = supervised.train

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(supervised, "train", interrupted)
    assert call(*FAST, "method=lora") == 130
    assert records(here)[0]["status"] == "interrupted"
    monkeypatch.setattr(supervised, "train", real)
    assert call(*FAST, "method=lora") == 0
    (record,) = records(here)
    assert record["status"] == "done"


def test_shots_zero_ranks_label_strings_and_refuses_a_fresh_head(here, capsys):
    assert call(*FAST, "model=tiny-llama", "method=lora", "shots=0") == 0
    assert records(here)[0]["compute"]["steps"] == 0
    assert call(*FAST, "method=lora", "shots=0") == 2
    assert "shots=0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["shots=10000"], ["shots=10000", "on_shortage"]),
        (["task=masakhanews"], ["PEFTBENCH_DATA", "data_dir"]),
        (["task=masakhanews", "data_dir=not/there"], ["not/there"]),
        (["method=dept", "trainer.max_length=5000"], ["trainer.max_length"]),
        (["method.tuner.rank=-1"], ["method.tuner.rank", "at least 0"]),
        (["method.lr.promt=0.1"], ["method.lr.promt"]),
        (["trainer.device=cuda"], ["cuda"]),
        (["method.init_from=0123456789abcdef"], ["no such run"]),
        (["method.stages=[distillation]"], ["ensemble"]),
        (["search=random", "protocol.dev=none"], ["no dev rows"]),
        (["search=random", "method.stages=[distillation]"], ["ensemble"]),
        (["out_dir=a/new/place", "method.stages=[distillation]"], ["ensemble"]),
    ],
)
def test_mistakes_leave_nothing_behind(here, capsys, args, words):
    import torch

    if "trainer.device=cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert call(*FAST, *args) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert list(here.iterdir()) == []


BAD_FILES = {
    "empty": b"",
    "missing column": b"category\theadline\nsports\tA match\n",
    "short row": b"category\theadline\ttext\turl\nsports\tA match\n",
    "unknown label": b"category\theadline\ttext\turl\nsprots\tA match\tIt was played\t\n",
    "binary": bytes(range(256)) * 8,
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_data_names_the_file(here, capsys, kind):
    folder = here / "data" / "masakhanews" / "eng"
    folder.mkdir(parents=True)
    good = b"category\theadline\ttext\turl\nsports\tA match\tIt was played\t\n"
    for split in ("train", "dev", "test"):
        (folder / f"{split}.tsv").write_bytes(BAD_FILES[kind] if split == "test" else good)
    assert call(*FAST, "task=masakhanews", "task.lang=eng", "data_dir=data", "method=majority") == 2
    error = capsys.readouterr().err
    assert "test.tsv" in error
    assert error.count("\n") == 1
    if kind == "unknown label":
        assert "sports" in error
        assert ":2" in error or "line 2" in error


def test_an_out_dir_that_cannot_be_written_is_said_before_training(here, capsys):
    (here / "results").write_text("a file where a folder should be")
    assert call(*FAST, "method=majority") == 2
    assert "results" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_leaves_no_record_and_the_same_command_finishes_it(here):
    long = ["method=lora", "trainer.steps=100000", "trainer.eval_every=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "peftbench", *FAST, *long], cwd=here, stderr=subprocess.PIPE, text=True
    )
    until(lambda: any('"train"' in path.read_text() for path in here.glob("results/runs/*/progress.json")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (here / "results" / "records").exists() or records(here) == []
    assert call(*FAST, "method=lora", "trainer.steps=2") == 0


@pytest.mark.slow
def test_two_processes_give_what_one_gives(here):
    common = [*FAST, "method=lora", "trainer.steps=8", "trainer.device=cpu"]
    assert call(*common) == 0
    assert call(*common, "trainer.devices=2") == 0
    one, two = sorted(records(here), key=lambda r: r["environment"]["n_devices"])
    assert two["environment"]["n_devices"] == 2
    assert one["curves"]["loss"] == pytest.approx(two["curves"]["loss"], abs=1e-4)
    answers = [
        [json.loads(x)["prediction"] for x in (here / "results/runs" / r["run_id"] / "predictions.jsonl").open()]
        for r in (one, two)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 105


def test_processes_that_die_without_a_record_leave_a_failed_one(here, monkeypatch, capsys):
    import peftbench.run_devices as module

    monkeypatch.setattr(
        module, "launch", lambda config, devices: Outcome(137, "rank 1 was killed by SIGKILL", killed=True)
    )
    assert call(*FAST, "method=lora", "trainer.devices=2") == 1
    (record,) = records(here)
    assert record["status"] == "failed"
    assert "rank 1 was killed by SIGKILL" in record["reason"]


def test_the_python_api_equals_the_command_line(here):
    record, is_new = run(compose([*FAST, "method=majority"]))
    assert is_new
    assert call(*FAST, "method=majority") == 0
    assert [r["run_id"] for r in records(here)] == [record.run_id]
