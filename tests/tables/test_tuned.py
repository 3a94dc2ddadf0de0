"""Tables whose cells take settings that a search chose: one rule of what is tried, on a draw that no scored run has."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from made_up_runs import file_run

from peftbench.cli import main
from peftbench.config.load import compose, from_plain
from peftbench.config.many import Composer
from peftbench.config.space import read_space
from peftbench.records.store import Store
from peftbench.tables import commands, spec
from peftbench.tables.table import make_table

BOARD = """
title: A small board
description: two methods, two trials, two draws
paper: none
run: {task: demo_news, shots: 5, model: tiny-bert, trainer.steps: 8, trainer.max_length: 16, protocol.dev: same_k,
      protocol.tie_seeds: true, protocol.test_rows: 30}
repeat: {seed: [1, 2]}
tune: {seed: 101, search.rates: decades}
panels:
  - {label: as given}
  - {label: tuned, tune: {search: random, search.trials: 2}}
  - {label: trials, metric: tuning_trials, tune: {search: random, search.trials: 2}}
  - {label: best dev, metric: tuning_dev_score, tune: {search: random, search.trials: 2}}
columns: [{label: eng}]
rows:
  - {label: majority, fixed: true, run: {method: majority}}
  - {label: LoRA, run: {method: lora}}
  - {label: BitFit, run: {method: bitfit}}
"""
RUN = ["task=demo_news", "shots=5", "model=tiny-bert", "trainer.steps=8", "trainer.max_length=16",
       "protocol.dev=same_k", "protocol.tie_seeds=true", "protocol.test_rows=30"]  # fmt: skip
SEARCH = ["search.rates=decades", "search=random", "search.trials=2"]
CHOSEN = {"method.lr.head": 0.002, "method.lr.lora": 0.003, "method.tuner.rank": 4}
TUNING = {"values": CHOSEN, "trials": 2, "seconds": 5.0, "cpu_seconds": 4.0, "dev_score": 61.5, "start_dev_score": 50.0,
          "dev_scores": [50.0, 61.5], "sampler": "random", "experiment": "lora-demo"}  # fmt: skip


def board():
    return spec.parse("small-board", BOARD)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results")


def file_search(store: Store) -> None:
    """LoRA's search, as it is filed: the config has what was chosen."""
    chosen = [f"{key}={value}" for key, value in CHOSEN.items()]
    # the space is that of the settings as given, whatever was chosen
    space = ["+search.space.method.lr.lora=[1e-4,1e-2,log]", "+search.space.method.lr.head=[1e-4,1e-2,log]"]
    file_run(store, [*RUN, "method=lora", *chosen, *SEARCH, *space], 0.6, 101, 101, tuning=TUNING)


def test_every_rate_is_searched_over_two_decades_and_that_is_settled_before_one_is_chosen():
    config = compose(
        [*RUN, "method=dept", *SEARCH, "method.lr.prompt=0.2", "+search.space.method.lr.head=[1e-3,2e-3,log]"]
    )
    space = {d.key: d.values for d in read_space(config)}
    assert space == {
        "method.lr.head": (1e-3, 2e-3),  # what is said by hand stays
        "method.lr.offset": (1e-4, 1e-2),
        "method.lr.prompt": (0.02, 2.0),
    }
    plain = asdict(config)
    plain["method"]["lr"]["prompt"] = 1.5
    assert from_plain(plain).search == config.search
    assert compose([*RUN, "method=dept"]).search.space == {}


@pytest.mark.parametrize("name", ["board", pytest.param("board-budget", marks=pytest.mark.slow)])
def test_all_methods_of_the_board_are_searched_by_one_rule(name):
    composer = Composer()
    budgets = {}
    for cell in spec.lay_out(name, spec.load(name)):
        if cell.tune and cell.metric == "score" and cell.column in ("eng", "8 trials"):
            settings = {**cell.run, **cell.tune}
            config = composer.compose([f"{key}={commands.value(v)}" for key, v in settings.items()])
            space = read_space(config)
            rates = {f"method.lr.{group}": rate for group, rate in (config.method.lr or {}).items()}
            assert {d.key for d in space if d.key.startswith("method.lr.")} == rates.keys()
            assert all(d.values == pytest.approx((rates[d.key] / 10, rates[d.key] * 10), rel=0.01) for d in space
                       if d.key in rates)  # fmt: skip
            assert len(space) - len(rates) <= 1, cell.row
            assert config.seed not in cell.repeat["seed"]
            budgets[cell.row] = (config.search.name, config.search.trials, config.search.seeds)
    assert len(budgets) > 40
    assert len(set(budgets.values())) == 1


def test_a_cell_is_searched_first_and_then_run_with_what_was_chosen(store):
    table = make_table("small-board", board(), store)
    search = {**table.cells["tuned", "LoRA", "eng"].fill}
    assert (search["search"], search["seed"], search["method"]) == (("random",), ("101",), ("lora",))
    assert table.cells["tuned", "LoRA", "eng"].problem.startswith("not tuned yet")
    assert table.cells["trials", "LoRA", "eng"].fill == search
    assert len([s for s in commands.merge(table.missing()) if "search" in s]) == 1

    file_search(store)
    table = make_table("small-board", board(), store)
    cell = table.cells["tuned", "LoRA", "eng"]
    assert (cell.done, cell.asked, cell.fill) == (0, 2, {"+experiment": ("lora-demo",), "seed": ("1", "2")})
    assert table.cells["trials", "LoRA", "eng"].value == 2
    assert table.cells["best dev", "LoRA", "eng"].value == 61.5
    command = commands.command(cell.fill, [f"out_dir={store.out_dir}"])
    assert command.startswith(f"PEFTBENCH_CONF={store.out_dir}/conf peftbench -m +experiment=lora-demo seed=1,2 ")

    for seed in (1, 2):
        file_run(store, [*RUN, "method=lora", "method.tuner.rank=4"], 0.5, seed, seed)  # another choice
        file_run(store, [*RUN, "method=lora", *(f"{k}={v}" for k, v in CHOSEN.items())], 0.9, seed, seed)
    table = make_table("small-board", board(), store)
    cell = table.cells["tuned", "LoRA", "eng"]
    assert cell.complete
    assert cell.tuning["dev_scores"] == [50.0, 61.5]
    assert 80 < cell.value < 100
    assert table.cells["as given", "LoRA", "eng"].done == 0


def test_what_has_nothing_to_search_is_run_as_given_in_both_tracks(store):
    for seed in (1, 2):
        file_run(store, [*RUN, "method=majority"], 0.3, seed, seed)
    cells = make_table("small-board", board(), store).cells
    given, tuned = cells["as given", "majority", "eng"], cells["tuned", "majority", "eng"]
    assert given.value == tuned.value is not None
    assert (cells["trials", "majority", "eng"].asked, cells["trials", "majority", "eng"].problem) == (
        0,
        "nothing is searched",
    )


@pytest.mark.slow
def test_a_board_from_nothing_to_its_last_cell(tmp_path, monkeypatch, capsys):
    conf, results = tmp_path / "conf", tmp_path / "results"
    (conf / "table").mkdir(parents=True)
    too_high = BOARD.replace("{method: lora}", "{method: lora, method.lr.head: 3.0}")  # something else will be chosen
    (conf / "table" / "small-board.yaml").write_text(f"# peftbench table small-board\n{too_high}")
    monkeypatch.setenv("PEFTBENCH_CONF", str(conf))
    argv = ["table", "small-board", "--run", "--format", "json", "tracking.wandb=disabled", "--out-dir", str(results)]
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    table = json.loads(capsys.readouterr().out)
    assert table["missing"] == []
    cells = {(c["panel"], c["row"]): c for c in table["cells"]}
    store = Store(results)
    for row, method in (("LoRA", "lora"), ("BitFit", "bitfit")):
        records = [r for r in store.all() if r.method == method]
        (search,) = [r for r in records if r.tuning.get("study") == r.run_id]
        assert cells["best dev", row]["value"] == max(search.tuning["dev_scores"])
        assert len(search.tuning["dev_scores"]) == cells["trials", row]["value"] == 2
        scored = [r for r in records if r is not search]
        assert {(r.seed, r.data_seed) for r in scored} == {(1, 1), (2, 2)}
        chosen = [r for r in scored if r.config["method"]["lr"] == search.config["method"]["lr"]]
        assert len(chosen) == cells["tuned", row]["runs"] == 2
        ids = [json.loads((store.folder(r.run_id) / "draw.json").read_text())["ids"] for r in records]
        assert all(row.startswith("train") for draw in ids for row in draw["dev"])
    lora = [r for r in store.all() if r.method == "lora" and r.seed in (1, 2)]
    assert len(lora) == 4  # two tracks
    assert sorted(bool(r.tuning) for r in lora) == [False, False, True, True]  # what was tuned says so in its record
