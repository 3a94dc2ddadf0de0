"""Runs that are trained together come to what each comes to alone, bit for bit, whatever happens to the others."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_configs import compose
from tiers import rest_slow

from peftbench.build import build_learner
from peftbench.conformance.bench import CASES, Bench
from peftbench.conformance.company import claims_together
from peftbench.conformance.company import together as conformance
from peftbench.conformance.subject import find_subject
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.learner import Learner
from peftbench.measure.clock import PhaseClock
from peftbench.models.backbone_cache import keep_loaded
from peftbench.passes.turns import Member
from peftbench.records.leaderboard import MEASURED, row
from peftbench.records.record import Record
from peftbench.records.seen import remarks
from peftbench.records.store import Store
from peftbench.runner import run
from peftbench.sweeps.group import run_jobs
from peftbench.sweeps.jobs import Job
from peftbench.sweeps.sharing import LARGEST, WORTH, gains, group_key, group_size, why_alone
from peftbench.training.distributed import Dist
from peftbench.training.loop import TrainResult, train
from peftbench.training.together import train_together
from peftbench.views.leaderboard_command import _show as shown

FAST = (
    "model=tiny-bert", "task=demo_news", "trainer=debug", "tracking.wandb=disabled", "shots=4", "trainer.device=cpu",
    "trainer.probe=false", "trainer.steps=6", "trainer.max_length=24", "protocol.test_rows=20", "trainer.eval_every=3",
    "trainer.precision=fp32", "trainer.threads=1",
)  # fmt: skip
METHODS = ["lora", "dept", "prompt_tuning", "bitfit", "houlsby", "head_only"]
DEVICE = Dist(torch.device("cpu"))


class Trainee:
    """A learner of a config and its training, without a record."""

    def __init__(self, inputs: InputCache, *words: str) -> None:
        self.cfg = compose([*FAST, *words])
        data, drawn, _ = inputs.load(self.cfg)
        self.learner: Learner = build_learner(self.cfg, data, PhaseClock(), drawn.train)[0]
        self.items = self.learner.encode(drawn.train)

    def alone(self) -> TrainResult:
        rates = {name: self.cfg.method.lr[name] for name in self.learner.param_groups()}
        return train(
            self.learner, self.items, cfg=self.cfg.trainer, lr=rates, weight_decay=self.cfg.method.weight_decay,
            seed=self.cfg.seed, select="last", evaluate=None, clock=PhaseClock(), dist=DEVICE,
        )  # fmt: skip


def both(*runs: str) -> tuple[list[Trainee], list[TrainResult], list[bool]]:
    """Train runs of these words alone and together: those trained together, what they came to, and whether curves and
    weights are those of the run alone."""
    inputs = InputCache()
    with keep_loaded():
        solo, group = ([Trainee(inputs, *words.split()) for words in runs] for _ in range(2))
    expected = [each.alone() for each in solo]
    results = train_together([each.learner for each in group], [each.alone for each in group])
    equal = [
        found.curves == known.curves and states_equal(one.learner, other.learner)
        for found, known, one, other in zip(results, expected, group, solo, strict=True)
    ]
    return group, results, equal


def states_equal(one: Learner, other: Learner) -> bool:
    mine, theirs = one.trainable_state(), other.trainable_state()
    return all(torch.equal(mine[name], theirs[name]) or bool(theirs[name].isnan().any()) for name in theirs)


@pytest.mark.parametrize("method", rest_slow(METHODS, ["bitfit"]))
def test_losses_and_weights_are_those_of_the_run_alone(method: str) -> None:
    group, _, equal = both(
        *(f"method={method} seed={seed} method.lr.head=0.00{seed} method.weight_decay=0.0{seed}" for seed in (1, 2, 3))
    )
    assert equal == [True] * 3
    for each in group:
        assert each.learner.together is not None
        assert not each.learner.together.why_alone
        assert each.learner.together.passes == 6
    first, second = (dict(each.learner.backbone.model.named_parameters()) for each in group[:2])
    assert all((first[n].data_ptr() == second[n].data_ptr()) is not first[n].requires_grad for n in first)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-t5", "tiny-gpt2", "tiny-llama", "tiny-roberta"])
@pytest.mark.parametrize("method", METHODS[:5])
def test_so_they_are_on_networks_of_other_kinds(model: str, method: str) -> None:
    if method == "bitfit" and model in ("tiny-t5", "tiny-llama"):
        pytest.skip("they have no biases")
    _, _, equal = both(*(f"model={model} method={method} seed={seed}" for seed in (1, 2)))
    assert equal == [True] * 2


@pytest.mark.slow
def test_runs_differ_in_task_length_of_rows_steps_and_schedule() -> None:
    group, results, equal = both(
        "method=lora seed=1 trainer.max_length=64 trainer.steps=9",
        "method=lora seed=2 trainer.max_length=64 data_seed=3 trainer.schedule=cosine",
        "method=lora seed=3 trainer.max_length=64 shots=3 trainer.warmup=2 trainer.clip=0",
    )
    assert equal == [True] * 3
    assert [result.steps for result in results] == [9, 6, 6]
    assert 0 < max(each.learner.together.passes for each in group) < 9  # type: ignore[union-attr]


def test_one_that_diverges_leaves_the_others_as_they_were() -> None:
    _, results, equal = both(
        "method=lora seed=1", "method=lora seed=2 method.lr.head=1e38 trainer.warmup=0", "method=lora seed=3"
    )
    assert [result.status for result in results] == ["done", "diverged", "done"]
    assert [equal[0], equal[2]] == [True, True]
    assert results[1].steps < 6


def test_what_is_not_alike_goes_alone_and_says_why() -> None:
    group, _, equal = both("method=lora seed=1", "method=lora seed=2 method.tuner.alpha=99", "method=bitfit seed=3")
    assert equal[0]
    reasons = [each.learner.together.why_alone for each in group]  # type: ignore[union-attr]
    assert "differed from the one alone" in reasons[1]
    assert "trains other parts" in reasons[2]
    assert equal[2]


def jobs_of(folder: Path, *words: str) -> list[Job]:
    inputs, jobs = InputCache(), []
    for seed in (1, 2, 3):
        cfg = compose([*FAST, "method=lora", f"seed={seed}", f"out_dir={folder}", "trainer.together=8", *words])
        jobs.append(Job(seed, (), cfg, inputs.run_id(cfg)))
    return jobs


def solo(jobs: list[Job], folder: Path) -> list[Record]:
    found = [run(replace(job.config, out_dir=str(folder)))[0] for job in jobs if job.config is not None]
    return [record for record in found if record is not None]


def same(one: Record, other: Record) -> bool:
    names = ("run_id", "status", "scores", "dev_score", "curves")
    return all(getattr(one, n) == getattr(other, n) for n in names) and (
        one.predictions["sha256"] == other.predictions["sha256"]
    )


def test_records_are_those_of_solo_runs_but_for_their_times(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path / "group")
    assert [ended.status for ended in run_jobs(jobs, InputCache())] == ["done"] * 3
    store = Store(tmp_path / "group")
    for index, (job, alone) in enumerate(zip(jobs, solo(jobs, tmp_path / "solo"), strict=True)):
        record = store.load(str(job.run_id))
        assert record is not None
        assert same(record, alone)
        assert record.together == {"size": 3, "index": index}
        assert not any("together" in note for note in record.notes)
        assert all(row(record)[name] is None for name in MEASURED)
        assert alone.together == {}
        assert "together" not in alone.to_dict()
    assert not store.holders()
    assert shown("train_seconds", row(record)) == "shared"
    assert any(remark.startswith("shared: seconds") for remark in remarks([row(record)]))


@pytest.mark.parametrize("at", rest_slow([5, 25], [25]))
def test_an_interrupted_group_goes_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A signal to the process while a run waits for the others: before the first step, and in the middle."""
    jobs, meet, count = jobs_of(tmp_path / "group"), Member.meet, [0]

    def meet_and_kill(self: Member, request: object) -> None:
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        meet(self, request)

    monkeypatch.setattr(Member, "meet", meet_and_kill)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, InputCache())
    store = Store(tmp_path / "group")
    records = [store.load(str(job.run_id)) for job in jobs]
    assert [record and record.status for record in records] == ["interrupted"] * 3
    assert all(list(store.folder(str(job.run_id)).glob("stages/*/checkpoint-*")) for job in jobs)
    monkeypatch.undo()
    for job, alone in zip(jobs, solo(jobs, tmp_path / "solo"), strict=True):
        assert job.config is not None
        resumed, _ = run(job.config)
        assert resumed is not None
        assert same(resumed, alone)
        assert resumed.compute["attempts"] == 2
        assert resumed.together["size"] == 3  # some of its seconds are the group's


REASONS = {
    "method=majority": "no backbone",
    "shots=0 protocol.dev=none": "no labelled rows",
    "method=pet": "stages",
    "method=lora +method/trick=ema": "trick",
    "method=lora trainer.dropout=0.1": "dropout",
    "method=lora method.tuner.dropout=0.1": "side by side",
    "method=lora method.tuner.dora=true": "side by side",
    "method=full": "side by side",
    "method=lora trainer.gradient_checkpointing=true": "recomputes",
    "method=lora trainer.reuse_frozen=true": "frozen blocks",
    "method=lora trainer.devices=2": "processes",
    "method=lora": "",
    "method=bitfit": "",
}


@pytest.mark.parametrize("words", REASONS)
def test_a_run_that_is_trained_alone_has_a_reason(words: str) -> None:
    found = why_alone(compose([*FAST, *words.split()]))
    assert REASONS[words] in found
    assert bool(found) == bool(REASONS[words])


def test_what_the_runs_of_a_group_have_in_common() -> None:
    def key(*words: str) -> str:
        return group_key(compose([*FAST, "method=lora", *words]))

    free = ["seed=7", "data_seed=9", "shots=5", "method.lr.lora=1e-4", "method.weight_decay=0.3", "trainer.warmup=0",
            "trainer.clip=0", "trainer.steps=99", "trainer.schedule=constant", "trainer.patience=2"]  # fmt: skip
    assert {key(words) for words in free} == {key()}
    bound = ["model=tiny-roberta", "method.tuner.rank=3", "trainer.batch_size=3", "trainer.max_length=20",
             "trainer.precision=bf16", "trainer.attention=eager", "method=bitfit", "method.tuner.alpha=3"]  # fmt: skip
    assert len({key(), *(key(words) for words in bound)}) == len(bound) + 1


@pytest.mark.parametrize("value", ["x", "1", "0", "-2", "1.5", "true"])
def test_no_other_value_is_taken(value: str) -> None:
    with pytest.raises(UsageError, match=r"^trainer\.together=.*off, auto or the most runs in a group"):
        compose([*FAST, "method=lora", f"trainer.together={value}"])


@pytest.mark.slow
def test_check_method_finds_a_tuner_that_cannot_be_trained_so() -> None:
    """IA3's vectors are used by the module around the one that holds them, which is the first run's for all rows."""
    outcome = {}
    for name in ("lora", "ia3"):
        subject = find_subject(name, [])
        outcome[name] = conformance(Bench(subject.tuner, subject.lr, CASES[0]))
    assert outcome["lora"].status == "pass"
    assert outcome["ia3"].status == "fail"
    assert "differed from the one alone" in outcome["ia3"].detail
    assert [claims_together(find_subject(name, []).tuner()) for name in ("lora", "ia3", "dora")] == [True, False, False]


def test_auto_makes_groups_only_where_that_was_measured_to_be_faster() -> None:
    fast = next(line for line in gains() if line["ratio"] >= WORTH)
    slow = next(line for line in gains() if line["ratio"] < WORTH)
    for line, size in ((fast, LARGEST), (slow, 1)):
        words = [f"model={line['model']}", f"method={line['tuner']}", f"trainer.max_length={line['length']}"]
        assert group_size(compose([*FAST, *words, "trainer.together=auto"])) == size
        assert group_size(compose([*FAST, *words, "trainer.together=3"])) == 3
        assert group_size(compose([*FAST, *words])) == 1
