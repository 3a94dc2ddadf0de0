"""A search: trials on dev alone, resumed from what is known, the chosen settings as a run and as a file."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from waiting import until

import peftbench.inputs
from peftbench import runner
from peftbench.cli import main
from peftbench.config.space import Dimension
from peftbench.records.ids import variant
from peftbench.records.store import Store
from peftbench.search.study import Study

FAST = ["task=demo_news", "tracking.wandb=disabled", "shots=2"]
FLOOR = [*FAST, "method=tfidf_lr", "search=tpe", "search.trials=3"]
TINY = [*FAST, "model=tiny-bert", "trainer=debug", "method=lora", "search=random", "search.trials=3"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    monkeypatch.delenv("PEFTBENCH_CONF", raising=False)
    return tmp_path


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code


def results(folder: str = "results"):
    """The one result of a search, its trials' records, and its own list of them."""
    (record,) = Store(folder).all()
    report = json.loads((Path(folder) / "runs" / record.tuning["study"] / "search.json").read_text())
    return record, Store(Path(folder, "trials")).all(), report["trials"]


def count_trainings(monkeypatch) -> list[str]:
    """Grows by one entry, `test` or `dev`, with each run that trains."""
    done = []
    real = runner.train
    monkeypatch.setattr(runner, "train", lambda context: (done.append(context.cfg.evaluate), real(context))[1])
    return done


def test_a_search_files_one_result_and_keeps_its_trials_apart(capsys):
    assert call(*FLOOR) == 0
    record, trials, listed = results()
    assert len(trials) == len(listed) == 3
    assert [t.score for t in trials] == [None] * 3
    assert all(t.dev_score is not None and not t.scores and t.status == "done" for t in trials)
    assert {r for t in listed for r in t["runs"]} == {t.run_id for t in trials}

    tuning = record.tuning
    best = max(listed, key=lambda t: (t["score"], -t["number"]))
    assert tuning["values"] == best["values"]
    assert record.config["method"]["classical"]["c"] == best["values"]["method.classical.c"]
    assert record.dev_score == tuning["dev_score"] == best["score"]  # the chosen settings do again what they did
    assert listed[0]["values"] == {"method.classical.c": 10.0}  # the first trial is the settings as given
    assert tuning["start_dev_score"] == listed[0]["score"] <= tuning["dev_score"]
    assert (tuning["trials"], tuning["failed"], tuning["dev_rows"]) == (3, 0, 35)
    assert tuning["seconds"] == pytest.approx(sum(t.seconds["total"] for t in trials))
    assert tuning["cpu_seconds"] == pytest.approx(
        sum(s for t in trials for phase, s in t.cpu_seconds.items() if phase != "import")
    )
    assert tuning["dev_scores"] == [t["score"] for t in listed]
    assert Path("results/conf/experiment", tuning["experiment"] + ".yaml").exists()
    assert record.run_id == tuning["study"]

    out = capsys.readouterr().out
    assert "trial 3/3" in out
    assert "tuned" in out
    with open("results/leaderboard.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["run_id"], row["tuning_trials"]) == (record.run_id, "3")
    assert not Path("results/trials/leaderboard.csv").exists()
    assert call("leaderboard") == 0
    assert f"tuned=3 trials, {tuning['seconds']:,.0f} s" in capsys.readouterr().out


def test_no_trial_can_see_a_test_label(monkeypatch):
    seen = []
    real_train = runner.train

    def train(context):
        dev_only = context.cfg.evaluate == "dev"
        tests = [*context.draw.test, *(row for rows in context.draw.extra_tests.values() for row in rows)]
        seen.append((dev_only, {row.target is None for row in tests}, len(context.data.test), len(context.data.dev)))
        return real_train(context)

    monkeypatch.setattr(runner, "train", train)
    assert call(*FLOOR) == 0
    assert seen[:-1] == [(True, {True}, 0, 0)] * 3
    assert seen[-1][:2] == (False, {False})


def test_other_test_labels_change_neither_the_trials_nor_the_choice(monkeypatch):
    assert call(*FLOOR) == 0
    record, _, listed = results()
    real = peftbench.inputs.load_task

    def poisoned(*args):
        data = real(*args)
        labels = data.labels
        other = [replace(r, target=labels[(labels.index(r.target) + 1) % len(labels)]) for r in data.test]
        return replace(data, test=other)

    monkeypatch.setattr(peftbench.inputs, "load_task", poisoned)
    assert call(*FLOOR, "out_dir=poisoned") == 0
    other, _, listed_too = results("poisoned")
    assert [(t["values"], t["scores"]) for t in listed] == [(t["values"], t["scores"]) for t in listed_too]
    assert other.tuning["values"] == record.tuning["values"]
    assert other.score != record.score


def test_an_interrupted_search_goes_on_to_what_it_would_have_been(monkeypatch):
    assert call(*FLOOR, "out_dir=whole") == 0
    whole, _, wanted = results("whole")

    trained = count_trainings(monkeypatch)
    counted = runner.train

    def stop_in_the_third(context):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return counted(context)

    monkeypatch.setattr(runner, "train", stop_in_the_third)
    assert call(*FLOOR) == 130
    assert Store("results").all() == []
    monkeypatch.setattr(runner, "train", counted)
    assert call(*FLOOR) == 0
    assert trained == ["dev"] * 3 + ["test"]  # two, then one: nothing twice
    record, _, listed = results()
    assert [(t["number"], t["values"], t["scores"]) for t in listed] == [
        (t["number"], t["values"], t["scores"]) for t in wanted
    ]
    assert (record.run_id, record.score, record.tuning["values"]) == (whole.run_id, whole.score, whole.tuning["values"])

    assert call(*FLOOR) == 0  # the same command again: known, and no trial is looked at
    assert len(trained) == 4
    assert call(*FLOOR, "search.trials=4") == 0  # a longer search pays for what is new
    assert trained[4:] == ["dev", "test"]


def test_budgets(monkeypatch):
    trained = count_trainings(monkeypatch)
    choice = ["method.space=null", "+search.space.method.classical.c=[1.0,10.0]"]
    assert call(*FLOOR, *choice, "search.trials=50", "out_dir=a") == 0  # two settings are all there are
    assert trained == ["dev"] * 2 + ["test"]
    trained.clear()
    assert call(*FLOOR, "search.trials=null", "search.seconds=1e-6", "out_dir=b") == 0
    assert trained == ["dev", "test"]
    trained.clear()
    assert call(*FLOOR, "search.seeds=2", "search.trials=2", "out_dir=c") == 0
    assert trained == ["dev"] * 4 + ["test"]
    record, trials, listed = results("c")
    assert {t.seed for t in trials} == {1, 2}
    assert {t.data_seed for t in trials} == {record.data_seed}
    assert listed[0]["score"] == pytest.approx(sum(listed[0]["scores"]) / 2)


def test_runs_that_were_tuned_alike_share_a_cell_and_others_do_not():
    assert call("-m", *FLOOR, "search.trials=2", "seed=1,2") == 0
    assert call(*FLOOR, "search=none") == 0
    records = Store("results").all()
    marks = [variant(r.config, r.data["sha256"]) for r in sorted(records, key=lambda r: (not r.tuning, r.seed))]
    assert marks[0] == marks[1] != marks[2]


def test_a_chosen_configuration_is_an_experiment_file_that_runs_with_any_seed(monkeypatch, capsys):
    assert call(*FLOOR) == 0
    record, *_ = results()
    (file,) = Path("results/conf/experiment").iterdir()
    lines = file.read_text().splitlines()
    assert lines[:2] == ["# @package _global_", f"# peftbench +experiment={file.stem}"]
    assert f"+experiment={file.stem}" in capsys.readouterr().out
    assert call(f"+experiment={file.stem}", "tracking.wandb=disabled") == 0
    again = next(r for r in Store("results").all() if r.run_id != record.run_id)
    assert (again.score, again.dev_score, again.seed) == (record.score, record.dev_score, record.seed)
    assert again.tuning["trials"] == 3
    assert again.tuning["study"] == record.run_id
    assert call(f"+experiment={file.stem}x") == 2
    assert f"Did you mean `{file.stem}`?" in capsys.readouterr().err
    file.parent.parent.rename("mine")
    monkeypatch.setenv("PEFTBENCH_CONF", "mine")
    assert call(f"+experiment={file.stem}", "--cfg", "job") == 0
    monkeypatch.setenv("PEFTBENCH_CONF", "not/there")
    assert call("--cfg", "job") == 2
    assert "PEFTBENCH_CONF=not/there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["protocol=clues_total", "shots=10"], ["no dev rows", "protocol.dev=fixed", "default"]),
        (["shots=0", "method=lora", "model=tiny-llama"], ["no dev rows"]),
        (["method=majority"], ["method=majority", "nothing to search"]),
        (["search.trials=0"], ["search.trials=0"]),
        (["shots=100000"], ["shots=100000"]),
    ],
)
def test_mistakes_leave_nothing_behind(args, words, capsys, here):
    assert call(*FLOOR, *args) == 2
    error = capsys.readouterr().err
    assert [line.startswith("peftbench: ") for line in error.splitlines()].count(True) == 1  # behind what is begun
    assert error.splitlines()[-1].startswith("peftbench: ")
    for word in words:
        assert word in error
    assert list(here.iterdir()) == []


def test_without_optuna_the_message_says_what_to_install(monkeypatch, capsys, here):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert call(*FLOOR) == 2
    assert "pip install 'peftbench[search]'" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_not_for_processes_that_were_started_together(monkeypatch, capsys):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert call(*FLOOR) == 2
    assert "trainer.devices" in capsys.readouterr().err


def test_a_network_is_tuned_too_and_settings_that_cannot_be_are_counted(capsys):
    """With `select=last` training never looks at dev; the trial does, once. A choice may be a list."""
    space = "+search.space.method.tuner.target_modules=[null,[query],[no_such_map]]"
    assert call(*TINY, "method.space=null", space, "search.trials=20", "protocol.select=last") == 0
    record, trials, listed = results()
    assert [t["reason"] != "" for t in listed].count(True) == record.tuning["failed"] == 1
    assert len(trials) == 2
    assert all(t.dev_score is not None and t.curves["dev"] == [] for t in trials)
    assert "no_such_map" in capsys.readouterr().out
    assert record.tuning["dev_score"] == max(t.dev_score for t in trials)
    assert not record.tuning["dev_selects"]
    assert not list(Path("results/trials").rglob("*.safetensors"))
    assert list(Path("results/runs").rglob("*.safetensors"))


@pytest.mark.slow
def test_settings_that_diverge_are_no_choice(capsys):
    space = ["method.space=null", "+search.space.method.lr.lora=[1e-3,1e30]", "+search.space.trainer.steps=[6]"]
    common = [*TINY, *space, "method.lr.head=1e-3", "trainer.clip=0", "trainer.schedule=constant", "trainer.warmup=0"]
    assert call(*common, "search.trials=4") == 0
    record, _, listed = results()
    assert record.tuning["values"]["method.lr.lora"] == 1e-3
    assert record.tuning["failed"] == 1
    assert any("diverged" in t["reason"] for t in listed)


@pytest.mark.slow
def test_no_trial_with_a_score_is_an_error_that_says_why(capsys):
    assert (
        call(*TINY, "method.space=null", "+search.space.method.lr.lora=[1e30]", "trainer.clip=0", "trainer.steps=6")
        == 2
    )
    assert "diverged" in capsys.readouterr().err
    assert Store("results").all() == []


SPACE = [Dimension("a", (1e-4, 1e-2), "log"), Dimension("b", (4, 8, [16])), Dimension("c", (1, 8), "int")]


def ask(sampler: str, trials: int, seed: int = 1, start: dict | None = None) -> list[dict]:
    study = Study(sampler, SPACE, seed, 16, start or {})
    asked = []
    for number in range(trials):
        trial, values = study.ask()
        study.tell(trial, None if number == 3 else -abs(values["a"] - 2e-3) - values["c"])
        asked.append(values)
    return asked


def test_samplers_follow_their_seed_and_their_scores():
    whole = ask("tpe", 16)
    assert ask("tpe", 9) == whole[:9]
    assert ask("tpe", 16, seed=2) != whole
    drawn = ask("random", 16)
    assert drawn == ask("random", 16)
    assert drawn[5:] != whole[5:]  # after its random start TPE goes by the scores
    assert {v["c"] for v in drawn} <= set(range(1, 9))
    assert all(v["b"] in (4, 8, [16]) and 1e-4 <= v["a"] <= 1e-2 for v in (*whole, *drawn))


def test_a_start_outside_of_the_space_is_drawn_for_its_key_alone():
    first, *_ = ask("tpe", 2, start={"a": 0.00123456, "b": 8, "c": 99})
    assert (first["a"], first["b"]) == (0.00123456, 8)
    assert 1 <= first["c"] <= 8


def test_importances_name_the_key_that_matters():
    study = Study("random", SPACE, 1, None, {})
    for _ in range(16):
        trial, values = study.ask()
        study.tell(trial, float(values["c"]))
    shares = study.importances()
    assert next(iter(shares)) == "c"
    assert sum(shares.values()) == pytest.approx(1)
    assert Study("random", SPACE, 1, None, {}).importances() == {}


@pytest.mark.slow
def test_a_killed_search_goes_on(here):
    command = [sys.executable, "-m", "peftbench", *TINY, "search.trials=4", "trainer.steps=20"]
    process = subprocess.Popen(command, cwd=here, stdout=subprocess.DEVNULL)
    until(lambda: len(list(here.glob("results/trials/records/*.json"))) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {r.run_id: r.created for r in Store("results/trials").all()}
    assert len(before) >= 2
    assert call(*TINY, "search.trials=4", "trainer.steps=20") == 0
    record, trials, _ = results()
    assert len(trials) == 4
    assert before.items() <= {r.run_id: r.created for r in trials}.items()  # none was done again
    assert call(*TINY, "search.trials=4", "trainer.steps=20", "out_dir=whole") == 0
    whole, *_ = results("whole")
    assert (record.score, record.tuning["values"]) == (whole.score, whole.tuning["values"])
    assert asdict(record)["curves"]["loss"] == asdict(whole)["curves"]["loss"]
