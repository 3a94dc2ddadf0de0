"""The file of a chosen configuration: what it composes to is what was chosen, whatever the config was made of."""

from dataclasses import asdict, replace

import pytest
import yaml

from peftbench.config import compose
from peftbench.records.ids import content
from peftbench.search.experiment import command, write_experiment

TUNING = {
    "sampler": "tpe", "trials": 20, "failed": 1, "seeds": 1, "seconds": 312.4, "cpu_seconds": 610.0, "dev_score": 91.0,
    "start_dev_score": None, "dev_scores": [88.0, 91.0], "dev_rows": 35,
    "dev_selects": True, "data_seed": 42, "study": "0123456789abcdef",
}  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=lora", "method.lr.lora=0.00212", "search=tpe"],
        [
            "method=dept",
            "task=masakhanews",
            "task.lang=swa",
            "shots=5",
            "protocol=masakhanews",
            "seed=3",
            "data_seed=9",
        ],
        ["method=peft", "method.type=LOHA", "+method.tuner.options.r=2", "model=arch/t5-base", "trainer=full"],
        [
            "method=vera",
            "task=sst2",
            "protocol=lm_bff",
            "shots=16",
            "model=hub",
            "model.path=a/b",
            "model.family=encoder",
        ],
        ["method=lora", "method/formulation=head", "method.tuner.target_modules=[query,value]", "trainer.epochs=2"],
    ],
)
def test_the_file_composes_to_the_config(overrides, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CONF", str(tmp_path))
    values = {"method.weight_decay": 0.01, "trainer.clip": 0.5}
    cfg = compose([*overrides, *(f"{key}={value}" for key, value in values.items())])
    cfg = replace(cfg, tuning={**TUNING, "values": values})
    path = write_experiment(cfg)
    assert path.parent == tmp_path / "experiment"
    again = compose([f"+experiment={path.stem}", f"seed={cfg.seed}", f"data_seed={cfg.data_seed or 'null'}"])
    assert content(asdict(again)) == content(asdict(replace(cfg, search=again.search)))
    assert again.tuning == cfg.tuning
    said = yaml.safe_load(path.read_text())
    assert said["method"]["weight_decay"] == 0.01
    assert not {"seed", "data_seed", "out_dir", "search"} & said.keys()
    assert command(cfg) == f"peftbench +experiment={path.stem} seed=2"


def test_without_a_folder_of_the_users_it_lies_with_the_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFTBENCH_CONF", raising=False)
    cfg = replace(compose(["method=lora"]), tuning={**TUNING, "values": {}})
    assert str(write_experiment(cfg)) == f"results/conf/experiment/{write_experiment(cfg).name}"
    assert command(cfg).startswith("peftbench +experiment=lora-demo_news-")
    assert command(replace(cfg, out_dir="x")).startswith("PEFTBENCH_CONF=x/conf peftbench ")
