"""What a run will cost: the nearest earlier runs, brought to its size."""

from __future__ import annotations

from typing import Any

import pytest
from made_up_configs import compose

from peftbench.config.schema import RunConfig
from peftbench.inspect.estimate import BARE_PROCESS_MIB, NO_BASIS, Estimator, estimate
from peftbench.records.leaderboard import Row, row
from peftbench.records.record import Record


def ran(**changes: Any) -> Row:
    """The row of a run of 40 steps: 10 s of training, 3 s of evaluation, 5 s of imports, 2 s of the rest."""
    facts = {"model": "tiny-bert", "method": "lora", "task": "demo_news", "subset": "eng", "shots": 10, "seed": 1}
    trainer = {"steps": 40, "epochs": None, "batch_size": 8, "micro_batch": None, "max_length": 128}
    trainer |= changes.pop("trainer", {})
    record = Record(
        run_id="aa",
        status="done",
        created="2026-11-21T08:00:00+00:00",
        protocol="default",
        data_seed=1,
        metric="accuracy",
        score=80.0,
        seconds={"train": 10.0, "eval": 3.0, "import": 5.0, "other": 2.0, "total": 20.0},
        cpu_seconds={"train": 9.0, "eval": 2.0, "import": 4.0, "other": 1.0},
        memory={"train_peak_mib": 100.0, "eval_peak_mib": 50.0, "process_peak_mib": 700.0},
        compute={"steps": 40},
        parameters={"module": 1, "head": 1, "total": 2**20},
        environment={"device": "cpu", "n_devices": 1},
        config={"trainer": trainer},
        **facts,
    )
    for name, value in changes.items():
        setattr(record, name, value)
    return row(record)


def wanted(*overrides: str) -> RunConfig:
    return compose(["model=tiny-bert", "method=lora", "shots=10", "trainer.steps=40", *overrides])


def test_runs_of_the_same_size_stand_as_they_are() -> None:
    rows = [ran(seconds={"train": t, "import": 5.0, "total": t + 10}) for t in (10.0, 12.0, 20.0)]
    found = estimate(wanted("seed=7", "data_seed=9"), rows)
    assert found.seconds == 17.0  # the median, without the imports
    assert found.cpu_seconds == 12.0
    assert found.import_seconds == 5.0
    assert found.peak_mib == 700.0
    assert found.basis == "median of 3 runs of the same model, method, task and shots"


def test_training_is_scaled_and_nothing_else() -> None:
    found = estimate(wanted("trainer.steps=160"), [ran()])
    assert found.seconds == 4 * 10.0 + 3.0 + 2.0
    assert found.cpu_seconds == 4 * 9.0 + 2.0 + 1.0
    assert found.basis == "1 run of the same model, method, task and shots; training scaled"
    found = estimate(wanted("trainer.batch_size=16", "trainer.max_length=64"), [ran()])
    assert found.seconds == 15.0


def test_memory_grows_with_the_tokens_of_a_pass() -> None:
    assert estimate(wanted("trainer.max_length=256"), [ran()]).peak_mib == 800.0
    assert estimate(wanted("trainer.batch_size=16", "trainer.micro_batch=8"), [ran()]).peak_mib == 700.0
    rows = [ran(), ran(memory={"train_peak_mib": 130.0, "process_peak_mib": 900.0})]
    assert estimate(wanted(), rows).peak_mib == 900.0  # what does not fit matters, not the median
    old = ran(memory={"train_peak_mib": 100.0}, parameters={"total": 2**20})
    assert estimate(wanted(), [old]).peak_mib == BARE_PROCESS_MIB + 4 + 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shots": 5}, "the same model, method and task, other shots"),
        ({"subset": "hau"}, "the same model and method, other tasks"),
        ({"task": "sst2"}, "the same model and method, other tasks"),
        ({"method": "dept"}, "the same model, other methods"),
    ],
)
def test_the_basis_becomes_coarser_and_says_so(changes: dict[str, Any], words: str) -> None:
    assert estimate(wanted(), [ran(**changes)]).basis == f"1 run of {words}"
    nearer = estimate(wanted(), [ran(**changes), ran(seconds={"train": 1.0, "total": 1.0})])
    assert nearer.seconds == 1.0


def test_runs_of_the_very_size_go_before_scaled_ones() -> None:
    rows = [ran(trainer={"steps": 400}, seconds={"train": 500.0, "total": 500.0}), ran()]
    assert estimate(wanted(), rows).seconds == 15.0


@pytest.mark.parametrize(
    "changes",
    [{"model": "minilm"}, {"status": "failed"}, {"status": "diverged"}, {"seconds": {}}, {"config": {}}],
)
def test_no_basis(changes: dict[str, Any]) -> None:
    assert estimate(wanted(), [ran(**changes)]) == NO_BASIS


def test_a_method_that_trains_nothing_says_nothing_of_one_that_does() -> None:
    assert estimate(wanted(), [ran(method="frozen_lr", compute={"steps": 0})]) == NO_BASIS
    assert estimate(wanted("method=frozen_lr"), [ran()]) == NO_BASIS
    assert estimate(wanted("shots=0"), [ran()]).seconds == 5.0


def test_floors_without_a_model_are_no_basis_for_each_other() -> None:
    floor = ran(model="none", method="tfidf_lr", compute={"steps": 0})
    assert estimate(wanted("method=tfidf_lr"), [floor]).seconds == 15.0
    assert estimate(wanted("method=majority"), [floor]) == NO_BASIS


def test_methods_of_several_trainings_stand_for_themselves_alone() -> None:
    pet = ran(method="pet", compute={"steps": 600}, seconds={"train": 150.0, "total": 200.0})
    assert estimate(wanted(), [pet]) == NO_BASIS
    assert estimate(wanted("method=pet"), [ran()]) == NO_BASIS
    assert estimate(wanted("method=pet"), [ran(), pet]).seconds == 200.0
    assert estimate(wanted("method=dept"), [ran(), pet]).basis == "1 run of the same model, other methods"


def test_another_device_is_the_last_resort() -> None:
    gpu = ran(environment={"device": "cuda"}, memory={"train_peak_mib": 900.0, "train_peak_reserved_mib": 1000.0})
    found = estimate(wanted(), [gpu])
    assert found.basis.endswith("; on another device")
    assert estimate(wanted(), [gpu, ran(shots=5)]).basis == "1 run of the same model, method and task, other shots"
    assert estimate(wanted(), [gpu, ran()], device="cuda").gpu_mib == 1000.0


def test_epochs_compare_with_epochs() -> None:
    passes = {"steps": None, "epochs": 2.0}
    by_epochs = wanted("trainer.steps=null", "trainer.epochs=6")
    assert estimate(by_epochs, [ran()]) == NO_BASIS
    assert estimate(by_epochs, [ran(trainer=passes)]).seconds == 3 * 10.0 + 5.0
    assert estimate(by_epochs, [ran(trainer=passes, shots=20)]).seconds == 1.5 * 10.0 + 5.0
    assert estimate(by_epochs, [ran(trainer=passes, shots="full")]) == NO_BASIS


def test_many_configs_of_a_kind_are_estimated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Estimator([ran()])
    first = estimator.estimate(wanted())
    monkeypatch.setattr(estimator, "_search", lambda *_: pytest.fail("searched again"))
    assert estimator.estimate(wanted("seed=5")) is first


@pytest.mark.parametrize(
    ("search", "runs"),
    [
        (["search.trials=4"], 5),
        (["search.trials=4", "search.seeds=3"], 13),
        (["search.trials=null", "search.seconds=50"], 5),  # a trial that has begun is finished
        (["search.trials=2", "search.seconds=50"], 3),
    ],
)
def test_trials_cost_what_runs_cost(search: list[str], runs: int) -> None:
    found = estimate(wanted("search=tpe", *search), [ran()])
    assert (found.seconds, found.cpu_seconds) == (15.0 * runs, 12.0 * runs)
    assert found.basis.endswith(" trials")
    assert estimate(wanted("search=tpe"), []) == NO_BASIS
