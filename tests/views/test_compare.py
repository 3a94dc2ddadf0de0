"""`peftbench compare`: what it says, what it refuses, and what it tells to run."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from stored_runs import file_run, rows_of, sweep, task
from tiers import rest_slow

from peftbench.cli import main
from peftbench.config import compose
from peftbench.config.command import command, hydra_value, overrides_of
from peftbench.records.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store("results")


def call(capsys, *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["compare", *args])
    captured = capsys.readouterr()
    return caught.value.code, captured.out + captured.err


def as_json(capsys, *args: str) -> dict:
    code, text = call(capsys, *args, "--json")
    assert code == 0, text
    return json.loads(text)


def test_a_clear_difference_is_called_real(store, capsys):
    sweep(store, {"dept": 0.9, "lora": 0.5})
    code, text = call(capsys, "dept", "lora")
    assert code == 0
    assert "dept is better than lora on masakhanews/eng with 10 shots by" in text
    assert "real, for other draws and other test items too" in text
    (found,) = as_json(capsys, "lora", "dept")["comparisons"]
    assert found["real"]
    assert found["difference"]["mean"] < 0
    assert found["difference"]["high"] < 0
    assert (found["draws_in_common"], found["draws_test"]["smallest_p"]) == (3, 0.25)
    assert found["items_test"]["p"] < 0.001
    assert found["commands"] == []


def test_an_unclear_one_says_what_would_settle_it(store, capsys):
    sweep(store, {"dept": 0.80, "lora": 0.74}, n=2000, spread=0.06)
    (found,) = as_json(capsys, "dept", "lora", "--task", "masakhanews", "--shots", "10")["comparisons"]
    assert not found["real"]
    wanted = found["power"]["draws"]
    assert wanted > 3
    (line,) = found["commands"]
    further = ",".join(map(str, range(4, wanted + 1)))
    assert line == f"peftbench -m method=dept,lora data_seed={further}"
    text = " ".join(found["sentences"])
    assert "No difference is shown" in text
    assert f"about {wanted} draws ({wanted - 3} more)" in text


def test_equal_answers_are_no_difference(store, capsys):
    rows, data = rows_of(["health", "sports"] * 20), task()
    for method in ("dept", "lora"):
        for draw in (1, 2, 3):
            file_run(store, data, rows, ["health"] * 40, method=method, data_seed=draw)
    (found,) = as_json(capsys, "dept", "lora")["comparisons"]
    assert found["p"] == 1
    assert found["difference"]["mean"] == 0
    assert not found["real"]


def test_several_comparisons_are_corrected_and_averaged(store, capsys):
    for shots in (5, 10):
        sweep(store, {"dept": 0.9, "lora": 0.6, "full": 0.6}, shots=shots)
    found = as_json(capsys, "dept", "lora", "full")
    assert len(found["comparisons"]) == 6
    assert len(found["averages"]) == 3
    for c in found["comparisons"]:
        assert c["n_tests"] == 6
        assert c["p"] >= c["difference"]["p"]
    average = found["averages"][0]
    both = [c["difference"]["mean"] for c in found["comparisons"][:2]]
    assert average["difference"]["mean"] == pytest.approx(np.mean(both))
    code, text = call(capsys, "dept", "lora", "full")
    assert code == 0
    assert "on the average over 2 settings" in text
    assert "of 6 comparisons show a difference at 5 % (Holm)" in text


def test_sides_may_name_what_differs(store, capsys):
    sweep(store, {"dept": 0.6}, shots=5)
    sweep(store, {"dept": 0.9}, shots=10)
    (found,) = as_json(capsys, "dept,shots=10", "dept,shots=5")["comparisons"]
    assert found["real"]
    assert "shots" not in found["setting"]
    a, b = (r.run_id for r in store.all()[:2])
    (found,) = as_json(capsys, a, b)["comparisons"]
    assert found["difference"]["method"] == "items only"
    assert found["commands"] == []


def test_another_metric(store, capsys):
    sweep(store, {"dept": 0.9, "lora": 0.5})
    (found,) = as_json(capsys, "dept", "lora", "--metric", "accuracy")["comparisons"]
    assert found["metric"] == "accuracy"
    code, text = call(capsys, "dept", "lora", "--metric", "acuracy")
    assert code == 2
    assert "Did you mean `accuracy`" in text


@pytest.mark.parametrize(
    ("changes", "named", "words"),
    [
        ({"protocol": "lm_bff"}, "protocols", "protocol `masakhanews`, lora `lm_bff`"),
        ({"data_sha": "b" * 64}, "data", "differ in their rows"),
    ],
)
def test_what_is_not_comparable_is_refused_unless_told_to(store, capsys, changes, named, words):
    sweep(store, {"dept": 0.9})
    sweep(store, {"lora": 0.5}, **changes)
    code, text = call(capsys, "dept", "lora")
    assert code == 2
    assert words in text
    assert f"`--across {named}` compares them anyway" in text
    code, text = call(capsys, "dept", "lora", "--across", named)
    assert code == 0
    assert f"compared across {named}" in text


def test_metrics_are_not_mixed(store, capsys):
    sweep(store, {"dept": 0.9})
    rows = rows_of(["health", "sports"] * 20)
    file_run(store, task(metric="accuracy"), rows, ["health"] * 40, method="lora")
    code, text = call(capsys, "dept", "lora")
    assert code == 2
    assert "`--metric NAME` takes one that both have" in text
    found = as_json(capsys, "dept", "lora", "--across", "metrics,data")
    assert found["comparisons"][0]["metric"] == "f1_weighted against accuracy"


def test_other_draws_cannot_be_paired_and_the_command_that_helps_is_given(store, capsys):
    sweep(store, {"dept": 0.8}, draws=(1, 2, 3))
    sweep(store, {"lora": 0.75}, draws=(4, 5, 6))
    (found,) = as_json(capsys, "dept", "lora")["comparisons"]
    assert found["draws_in_common"] == 0
    assert found["difference"]["method"].endswith("not paired")
    assert found["commands"] == ["peftbench -m method=lora data_seed=1,2,3"]
    sweep(store, {"lora": 0.75}, draws=(3,))
    (found,) = as_json(capsys, "dept", "lora")["comparisons"]
    assert found["draws_in_common"] == 1
    assert "1 draws are common to both (3 and 4 in all)" in found["notes"][0]


def test_different_experiments_under_one_name_are_told_apart(store, capsys):
    sweep(store, {"dept": 0.8})
    sweep(store, {"lora": 0.8}, tuner={"rank": 4})
    sweep(store, {"lora": 0.7}, tuner={"rank": 8})
    code, text = call(capsys, "dept", "lora")
    assert code == 2
    assert "2 different experiments" in text
    assert "(rank=4)" in text
    variant = text.split("lora,variant=")[1].split()[0]
    assert call(capsys, "dept", f"lora,variant={variant}")[0] == 0


def test_a_side_may_name_settings_as_tables_do(store, capsys):
    sweep(store, {"lora": 0.8}, tuner={"rank": 4})
    sweep(store, {"lora": 0.7}, tuner={"rank": 8})
    for name in ("rank", "tuner.rank", "method.tuner.rank"):
        (found,) = as_json(capsys, f"lora,{name}=4", f"lora,{name}=8")["comparisons"]
        assert found["difference"]["mean"] > 0
    code, text = call(capsys, "lora,rank=4", "lora,rank=16")
    assert (code, "Valid: 4, 8" in text) == (2, True)
    code, text = call(capsys, "lora,rank=4", "lora,rink=8")
    assert (code, "no column or setting `rink`" in text) == (2, True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["dept"], "at least two"),
        (["detp", "lora"], "Did you mean `dept`"),
        (["dept,shot=10", "lora"], "Did you mean `shots`"),
        (["dept,shots=7", "lora"], "no run has shots=`7`"),
        (["dept", "lora", "--across", "date"], "Did you mean `data`"),
        (["dept", "lora", "--level", "30"], "50 to below 100"),
        (["dept", "lora", "--task", "glue"], "No run has task=`glue`"),
        (["dept", "lora", "--task", "eng"], "No run has task=`eng`. That is a subset: `--subset eng`."),
        (["dept,task=eng", "lora"], "no run has task=`eng`. That is a subset: `subset=eng`."),
        (["eng", "dept"], "neither a method nor a run among these runs. That is a subset: `subset=eng`."),
        (["dept,shots=10", "lora,shots=5"], "no run has shots=`5`"),
        (["dept,method=lora", "lora"], "two values of method"),
        (["", "lora"], "empty name"),
    ],
)
def test_mistakes_are_one_line(store, capsys, args, words):
    sweep(store, {"dept": 0.9, "lora": 0.5})
    code, text = call(capsys, *args)
    assert code == 2
    assert words in text
    assert text.count("\n") == 1


def test_nothing_in_common_and_nothing_at_all(store, capsys):
    store.out_dir.mkdir()
    code, text = call(capsys, "dept", "lora")
    assert code == 2
    assert "No runs in" in text
    sweep(store, {"dept": 0.9}, shots=5)
    sweep(store, {"lora": 0.9}, shots=10)
    code, text = call(capsys, "dept", "lora")
    assert code == 2
    assert "never run in the same setting" in text
    sweep(store, {"lora": 0.9}, shots=5)
    code, text = call(capsys, "dept", "lora")
    assert code == 0
    assert "only lora was run on" in text
    assert "shots=10" in text


def test_a_floor_without_backbone_goes_with_any_model(store, capsys):
    sweep(store, {"dept": 0.9}, model="minilm")
    sweep(store, {"tfidf_lr": 0.5}, model="none")
    (found,) = as_json(capsys, "dept", "tfidf_lr")["comparisons"]
    assert found["real"]


def test_unfinished_runs_do_not_count(store, capsys):
    sweep(store, {"dept": 0.9, "lora": 0.5})
    for record in store.all():
        if record.method == "lora":
            record.status, record.score = "failed", None
            store.save(record)
    code, text = call(capsys, "dept", "lora")
    assert code == 2
    assert "none of its 3 runs is finished" in text


def test_names_cannot_break_the_terminal(store, capsys):
    sweep(store, {"dept": 0.9})
    sweep(store, {"x[red]\x1b[31m": 0.5})
    code, text = call(capsys, "dept", "x[red]\x1b[31m")
    assert code == 0
    assert "\x1b" not in text
    assert "[red]" in text


def test_compare_imports_nothing_heavy(store):
    sweep(store, {"dept": 0.9, "lora": 0.5})
    code = (
        "import sys\nfrom peftbench.cli import main\n"
        "try:\n    main(['compare', 'dept', 'lora'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "heavy = ('torch', 'transformers', 'sklearn', 'pandas', 'scipy.stats', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


# The command that makes a config


GIVEN = [
    [],
    ["method=dept", "task=masakhanews", "task.lang=hau", "shots=full", "model=e5-small-q4"],
    ["method=peft", "method.type=VERA", "trainer=debug", "trainer.precision=bf16"],
    ["model=hub", "model.path=org/name", "model.family=encoder", "trainer.clip=0.5"],
    ["method=pet", "method/tuner=lora", "task=ag_news", "method.pet.repetitions=3"],
    ["method=list", "method/formulation=head", "~method.formulation.prefer", "~method.formulation.train_head"],
    ["method=list", "method/self_training=paper", "task=trec"],
]
MORE = [
    ["method=lora", "shots=5", "data_seed=3", "seed=2"],
    ["method=tfidf_lr", "method.classical.word_ngrams=[1,3]", "protocol=lm_bff", "shots=16"],
    ["method=lite", "method/formulation=cloze", "method.formulation.train_head=true", "task=subj"],
    ["method=list", "method/tuner=prompt_tuning", "+method.lr.prompt=0.3", "task=masakhanews", "task.lang=swa"],
]


@pytest.mark.parametrize("given", rest_slow([*GIVEN, *MORE], GIVEN))
def test_a_config_gives_back_its_command(given):
    from dataclasses import asdict

    config = asdict(compose(given))
    for known in (config, json.loads(json.dumps(config))):  # as a record has it, too
        short = overrides_of(known)
        assert asdict(compose(short)) == config
        assert len(short) <= len(given) or "method/self_training=paper" in given  # a file without a name


def test_values_in_hydras_grammar():
    assert [hydra_value(v) for v in (None, True, 3, 0.5, "a/b", "it's, so", [1, "x y"])] == [
        "null", "true", "3", "0.5", "a/b", "'it\\'s, so'", "[1,'x y']",
    ]  # fmt: skip
    assert hydra_value("10") == "'10'"
    assert command(["method=lora", "shots=5", "shots=10"], multirun=True) == "peftbench -m method=lora shots=10"
