import dataclasses

import pytest
import yaml

from peftbench.config.load import compose
from peftbench.config.schema import TrainerConfig


@pytest.mark.parametrize(
    ("name", "steps", "epochs", "batch"), [("fewshot", 160, None, 8), ("full", None, 3, 32), ("debug", 2, None, 4)]
)
def test_trainer_files_compose(name, steps, epochs, batch):
    cfg = compose([f"trainer={name}"]).trainer
    assert (cfg.name, cfg.steps, cfg.epochs, cfg.batch_size) == (name, steps, epochs, batch)


def test_fewshot_explains_every_knob():
    from importlib.resources import files

    text = files("peftbench.conf").joinpath("trainer/fewshot.yaml").read_text()
    assert text.startswith("# peftbench ")
    assert yaml.safe_load(text).keys() == {field.name for field in dataclasses.fields(TrainerConfig)}
    for line in text.splitlines():
        assert not line or "#" in line or line.startswith("name:"), line
