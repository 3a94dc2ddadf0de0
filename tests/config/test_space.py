"""The space of a search: what a list means and which mistakes are named. (The methods' own are read in test_load.)"""

import pytest

from peftbench.config import compose
from peftbench.config.space import Dimension, declared, read_space, with_values
from peftbench.errors import UsageError


def test_a_list_is_a_range_if_it_is_two_numbers_and_a_scale():
    cfg = compose(
        [
            "method=lora",
            "method.space.lr.lora=[1e-4,1e-2,log]",
            "+search.space.trainer.schedule=[cosine,constant,linear]",
            "+search.space.trainer.steps=[10,20,int]",
            "+search.space.trainer.clip=[0,1,linear]",
            "+search.space.method.tuner.target_modules=[[query],[query,value],null]",
        ]
    )
    space = {d.key: d for d in read_space(cfg)}
    assert space["method.lr.lora"] == Dimension("method.lr.lora", (1e-4, 1e-2), "log")
    assert space["method.tuner.rank"] == Dimension("method.tuner.rank", (4, 8, 16))
    assert space["trainer.schedule"].scale is None
    assert space["trainer.steps"] == Dimension("trainer.steps", (10, 20), "int")
    assert space["trainer.clip"] == Dimension("trainer.clip", (0.0, 1.0), "linear")
    assert space["method.tuner.target_modules"].values == (["query"], ["query", "value"], None)


def test_null_takes_keys_out_and_the_command_line_wins():
    config = {
        "method": {"space": {"lr": {"lora": [1, 2], "head": [3, 4]}, "tuner": {"rank": [4], "alpha": [8]}}},
        "search": {"space": {"method.lr.lora": [5, 6], "method": {"tuner": None}, "trainer": {"steps": [7]}}},
    }
    assert declared(config) == {"method.lr.head": [3, 4], "method.lr.lora": [5, 6], "trainer.steps": [7]}
    assert declared({}) == {}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+method.space.lr.lroa=[1,2]"], ["method.lr.lroa", "Did you mean `method.lr.lora`?"]),
        (["+search.space.trainer.stps=[1,2]"], ["Did you mean `trainer.steps`?"]),
        (["search.space.trainer.steps=[1,2]"], ["with a plus", "+search.space.trainer.steps"]),
        (["+search.space.trainer.steps=[1,2,lgo]"], ["`lgo`", "Did you mean `log`?"]),
        (["method.space.lr.lora=[1e-2,1e-4,log]"], ["method.lr.lora", "below"]),
        (["method.space.lr.lora=[0,1e-4,log]"], ["above 0"]),
        (["+search.space.trainer.steps=[1,2.5,int]"], ["whole numbers"]),
        (["+search.space.trainer.steps=[]"], ["empty"]),
        (["+search.space.trainer.steps=40"], ["trainer.steps", "must be a list"]),
        (["+search.space.trainer.steps=[0,40]"], ["trainer.steps=0", "at least 1"]),
        (["+search.space.trainer.batch_size=[1,8,log]"], ["trainer.batch_size", "whole number"]),
        (["+search.space.seed=[1,2]"], ["only keys of method and trainer"]),
        (["+search.space.task.subset=[a,b]"], ["only keys of method and trainer"]),
        (["+search.space.trainer.a.b=[1,2]"], ["there is no trainer.a"]),
        (["method.space=null"], ["declares nothing to search"]),
        (["method.budget=10000"], ["method.budget=10000", "method.space.tuner=null"]),
        (["search.trials=0"], ["search.trials=0", "at least 1"]),
        (["search.trials=null"], ["budget"]),
        (["search.trails=3"], ["Did you mean `search.trials`?"]),
        (["search=optuna"], ["search=optuna", "random, tpe"]),
    ],
)
def test_mistakes_are_named_with_the_way_out(overrides, words):
    with pytest.raises(UsageError) as caught:
        compose(["method=lora", "search=tpe", *overrides])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_values_are_set_and_checked_and_the_config_is_left_alone():
    cfg = compose(["method=vera", "search=random"])
    other = with_values(cfg, {"method.lr.adapter": 0.5, "method.tuner.options.r": 16, "trainer.steps": 3})
    assert (other.method.lr["adapter"], other.method.tuner.options["r"], other.trainer.steps) == (0.5, 16, 3)
    assert other.search.name == "none"
    assert cfg == compose(["method=vera", "search=random"])
    with pytest.raises(UsageError, match=r"trainer\.steps"):
        with_values(cfg, {"trainer.steps": -1})
