"""Tasks of made-up rows, and the protocols that draw from them."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

import yaml

from peftbench.config.schema import ProtocolConfig
from peftbench.config.sections import build
from peftbench.tasks.base import DataSource, Row, TaskData

NAMES = ["default", "masakhanews", "lm_bff", "clues_total", "dept_total", "sciprompt", "full"]
FEW = [name for name in NAMES if name != "full"]


def protocol(name: str, **changes) -> ProtocolConfig:
    section = yaml.safe_load((files("peftbench.conf") / "protocol" / f"{name}.yaml").read_text("utf-8"))
    return build(ProtocolConfig, {**section, **changes}, "protocol")


def rows(split: str, counts: dict, words: int = 30) -> list[Row]:
    """Rows of the given labels, interleaved, each text its own and `words` words long."""
    left, out = dict(counts), []
    while any(left.values()):
        for label in counts:
            if left[label]:
                left[label] -= 1
                out.append(Row(f"{split}:{len(out)}", f"{split} {label} {left[label]}" + " word" * words, label))
    return out


def task(train=None, dev=None, test=None, **values) -> TaskData:
    train = rows("train", {"a": 60, "b": 50, "c": 70}) if train is None else train
    dev = rows("dev", {"a": 9, "b": 8, "c": 7}) if dev is None else dev
    test = rows("test", {"a": 20, "b": 20, "c": 20}) if test is None else test
    fixed = {
        "name": "t", "subset": "s", "labels": ("a", "b", "c"), "label_words": {}, "fields": ("text", "pair"),
        "problem": "classification", "main_metric": "accuracy", "metrics": ("accuracy",),
        "source": DataSource("packaged", "here"),
    }  # fmt: skip
    return TaskData(train=train, dev=dev, test=test, **{**fixed, **values})


def ids(split) -> list[str]:
    return [row.id for row in split]


def counts(split) -> dict:
    return dict(Counter(row.target for row in split))


def shots_of(name: str) -> int | str:
    return "full" if name == "full" else 9
