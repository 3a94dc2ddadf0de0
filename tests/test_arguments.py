"""Flags, settings and what is neither: every slip ends in one message that says what was probably meant."""

import pytest

from peftbench.arguments import check_encoding, sort_arguments, with_flag, with_override
from peftbench.errors import UsageError


@pytest.mark.parametrize(
    ("args", "flags", "overrides"),
    [
        (["method=lora,dept", "-m", "seed=1,2"], ["-m"], ["method=lora,dept", "seed=1,2"]),
        (["seed=1", "--cfg=job"], ["--cfg", "job"], ["seed=1"]),
        (["--cfg", "job", "~method.lr.head"], ["--cfg", "job"], ["~method.lr.head"]),
        (["--out-dir", "a,b", "seed=1"], [], ["out_dir='a,b'", "seed=1"]),
        (["--out_dir=runs"], [], ["out_dir=runs"]),
    ],
)
def test_flags_come_first_wherever_they_stood(args, flags, overrides):
    found = sort_arguments(args)
    assert (found.flags, found.overrides) == (flags, overrides)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--shots", "10"], "shots=10"),
        (["--data-seed=3"], "data_seed=3"),
        (["--nope"], "no such option"),
        (["--experimental-rerun", "x"], "pickle"),
        (["--experimental", "x"], "no such option"),
        (["-cd", "/tmp"], "PEFTBENCH_CONF"),
        (["--cfg", "jb"], "Did you mean `job`"),
        (["--cfg"], "needs a value"),
        (["-m=3"], "takes no value"),
        (["-m", "--cfg", "job", "seed=1"], "only one of them"),
        (["-m"], "a sweep of nothing"),
        (["seed=1", "lora"], "Did you mean `method=lora`"),
        (["--out-dir"], "needs a folder"),
        ([""], "an empty word"),
    ],
)
def test_slips(args, words):
    with pytest.raises(UsageError, match=words):
        sort_arguments(args)


def test_both_spellings_of_the_folder():
    assert with_flag(["out_dir=a b", "--json"]) == ["--out-dir=a b", "--json"]
    assert with_override(["--out-dir", "a b", "seed=1", "--out_dir=c"]) == ["out_dir='a b'", "seed=1", "out_dir=c"]


def test_an_argument_that_is_no_text():
    with pytest.raises(UsageError, match=r"argument 2.*not UTF-8"):
        check_encoding(["seed=1", "out_dir=\udcff"])
