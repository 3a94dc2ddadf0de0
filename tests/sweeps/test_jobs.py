"""The runs of a sweep before the first one starts: the same configs and names as one by one, only cheaper."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from peftbench.config import compose
from peftbench.errors import UsageError
from peftbench.inputs import InputCache
from peftbench.sweeps.jobs import backbone_key, compose_jobs, expand

AXES = {
    "method": ["lora", "majority", "peft", "ia3", "detp"],
    "task": ["demo_news", "masakhanews", "glue"],
    "model": ["tiny-bert", "tiny-t5"],
    "trainer": ["fewshot", "debug"],
    "method/formulation": ["auto", "head"],
}
VALUES = {
    "shots": ["2", "full", "many"],
    "seed": ["1", "7", "-1"],
    "data_seed": ["null", "3", "${seed}"],
    "trainer.steps": ["3", "null", "0", "x"],
    "trainer.stpes": ["3"],
    "method.lr.head": ["1e-3", "0.5"],
    "+method.lr.new": ["1"],
    "+model.arch.size": ["1", "{a: 1}"],
    "++method.lr.head": ["0.2"],
    "+seed": ["3"],
    "~method.lr.head": ["1e-3"],
    "method.type": ["VERA"],
    "task.lang": ["swa"],
    "trainer.warmup": ["0.1", "2"],
    "tracking.tags": ["[a,b]", "[${task.name}]"],
    "model.name": ["mine", "${method.name}"],
    "sede": ["1"],
    "rerun": ["true"],
    "model": ["{name: x}"],
}


def outcome(overrides):
    """The config, or the mistake's message."""
    try:
        return compose(overrides)
    except UsageError as error:
        return str(error)


@st.composite
def commands(draw):
    """Some jobs that share most of their overrides, as those of a sweep do."""
    keys = draw(st.lists(st.sampled_from([*AXES, *VALUES]), unique=True, max_size=5))
    jobs = [[f"{key}={draw(st.sampled_from({**AXES, **VALUES}[key]))}" for key in keys] for _ in range(2)]
    return [draw(st.permutations(job)) for job in jobs]


def check_equal(jobs):
    for job, made in zip(jobs, compose_jobs(jobs), strict=True):
        expected = outcome(job)
        if isinstance(expected, str):  # of several mistakes in a command, either may be told
            assert made.config is None
            assert made.error
        else:
            assert made.config == expected


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(commands())
def test_composing_many_equals_composing_each(jobs):
    check_equal(jobs)


@pytest.mark.slow
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes an hour, and the commands are short
)
@given(commands())
def test_composing_many_equals_composing_each_at_length(jobs):
    check_equal(jobs)


@pytest.mark.parametrize(
    "mistake",
    [
        "+seed=3",
        "+method.lr.head=1",
        "task=3",
        "method=detp",
        "shots=many",
        "trainer.steps=0",
        "trainer.stpes=3",
        "sede=1",
    ],
)
def test_a_mistake_is_told_in_the_same_words(mistake):
    (job,) = compose_jobs([["method=lora", mistake]])
    assert job.error == outcome(["method=lora", mistake])


def test_a_sweep_is_every_combination_in_hydras_grammar():
    jobs = expand(["method=lora,dept", "shots=range(1,3)", "tracking.tags=[a,b]", "model.path='x,y'"])
    assert len(jobs) == 4
    assert jobs[1] == ("method=lora", "shots=2", "tracking.tags=[a,b]", "model.path='x,y'")
    assert [job[0] for job in jobs] == ["method=lora", "method=lora", "method=dept", "method=dept"]


def test_params_of_a_file_give_way_to_the_command_line():
    assert expand(["seed=3"], {"seed": "1,2", "shots": "5,10"}) == [("seed=3", "shots=5"), ("seed=3", "shots=10")]


@pytest.mark.parametrize("bad", ["seed=interval(1,4)", "seed={1,", "a=b=c,d"])
def test_a_sweep_without_values_is_a_mistake(bad):
    with pytest.raises(UsageError):
        expand([bad])


def test_names_are_those_of_the_runs_themselves():
    jobs = compose_jobs(expand(["method=lora,majority", "model=tiny-bert,tiny-t5", "shots=2,3", "seed=1,2"]))
    assert all(job.error == "" for job in jobs)
    for job in jobs[::5]:
        assert job.run_id == InputCache().load(compose(job.overrides)).run_id


def test_runs_that_are_the_same_are_marked():
    jobs = compose_jobs(expand(["method=majority,lora", "model=tiny-bert,tiny-t5", "trainer.progress=true,false"]))
    assert [job.same_as for job in jobs] == [None, 0, 0, 0, None, 4, None, 6]  # majority has no backbone


def test_mistakes_stand_in_their_jobs(monkeypatch):
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    config, data, draw, good = compose_jobs([["seed=-1"], ["task=masakhanews"], ["shots=10000"], ["shots=2"]])
    assert config.config is None
    assert "seed=-1" in config.error
    assert data.config is not None
    assert "data_dir" in data.error
    assert data.run_id is None
    assert "too few rows" in draw.error
    assert good.run_id is not None
    assert good.error == ""


def test_data_and_draws_are_loaded_once(monkeypatch):
    import peftbench.inputs as module

    calls = {"load_task": 0, "draw": 0}
    for name in calls:
        real = getattr(module, name)

        def counted(*args, _name=name, _real=real):
            calls[_name] += 1
            return _real(*args)

        monkeypatch.setattr(module, name, counted)
    inputs = InputCache()
    jobs = compose_jobs(expand(["method=lora,dept,full", "shots=2,3", "data_seed=1,2", "seed=range(1,6)"]), inputs)
    assert calls == {"load_task": 1, "draw": 4}
    assert len({job.run_id for job in jobs}) == 60


def test_what_can_share_a_backbone():
    a, b, c, d, e = (
        backbone_key(job.config)
        for job in compose_jobs(
            [
                ["method=lora", "seed=1"],
                ["method=full", "seed=2", "shots=2"],
                ["method=lora", "model=tiny-bert"],
                ["method=lora", "trainer.dropout=0.3"],
                ["method=majority"],
            ]
        )
    )
    assert a == b
    assert len({a, c, d, e}) == 4
    assert e == ""


def test_jobs_are_named_without_torch():
    code = (
        "import sys\nfrom peftbench.sweeps.jobs import compose_jobs, expand\n"
        "assert compose_jobs(expand(['method=lora,majority']))[0].run_id\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'sklearn', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_axes_that_do_not_touch_are_composed_apart(monkeypatch, tmp_path):
    """Two methods, two tasks, two models: four compositions, not eight, and the same configs."""
    import peftbench.config.many as module

    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    composed = []
    real = module.compose_raw
    monkeypatch.setattr(module, "compose_raw", lambda choices: composed.append(choices) or real(choices))
    sweep = ["method=lora,majority", "task=demo_news,masakhanews", "model=tiny-bert,tiny-t5", "shots=2,3"]
    jobs = compose_jobs(expand(sweep))
    assert len(composed) == 4
    assert [job.config for job in jobs[5::4]] == [compose(job.overrides) for job in jobs[5::4]]


@pytest.mark.parametrize("task", ["masakhanews", "trec"])  # the latter's labels are numbered: keys that JSON lacks
def test_what_was_composed_once_is_remembered_as_it_was(task, monkeypatch, tmp_path):
    from peftbench.config import many

    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    made = many.composed((f"task={task}",))
    monkeypatch.setattr(many, "compose_raw", None)
    again = many.composed((f"task={task}",))
    assert again == made
    assert list(again.task.get("subsets", {})) == list(made.task.get("subsets", {}))
    if task == "trec":
        assert {type(key) for key in again.task.subsets.trec.labels} == {int}


def test_a_file_that_writes_elsewhere_is_composed_with_each_choice(monkeypatch, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "short.yaml").write_text("# @package _global_\ntrainer:\n  steps: 7\nseed: 5\n")
    (tmp_path / "experiment" / "other.yaml").write_text("# @package _global_\ndefaults:\n  - override /method: full\n")
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    sweep = ["+experiment=short,other", "model=tiny-bert,tiny-t5", "trainer=fewshot,debug", "shots=2"]
    jobs = compose_jobs(expand(sweep))
    assert [job.config for job in jobs] == [compose(job.overrides) for job in jobs]
    assert {job.config.trainer.steps for job in jobs[:4]} == {7}
    assert {job.config.method.name for job in jobs[4:]} == {"full"}


def test_a_mistake_in_one_job_does_not_touch_the_others():
    jobs = compose_jobs([["method=detp", "task=demo_news"], ["method=lora", "task=glue"], ["method=full"]])
    assert [job.config is None for job in jobs] == [True, False, False]
    assert jobs[1].config == compose(["method=lora", "task=glue"])
